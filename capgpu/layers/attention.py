"""Scaled dot-product attention over the cells of a picture, and the LSTM that reads its result at each step.

Names and shapes are those of the captioning exercise's later versions: the projected cells A are (N, H, R, C), a grid
of R rows and C columns. Everything else in this library has them as (N, L, H), the L = R C cells row by row; the
mathematics is in `capgpu.kernels.reference.attention`.
"""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.kernels import AttentionStates
from capgpu.kernels.cells import CELLS, RecurrenceGradients
from capgpu.kernels.half import in_float32
from capgpu.kernels.reference import attention as reference
from capgpu.layers.batch_first import check_hidden_gradient, from_time_major, step_gradients, to_time_major
from capgpu.layers.cache import LayerCache, read_cache
from capgpu.layers.lstm import LSTM
from capgpu.layers.recurrence import (
    Cell,
    Recurrence,
    backward_through_time,
    input_gradients,
    recurrent_forward,
    recurrent_weights_gradient,
)
from capgpu.sequence import Packing
from capgpu.validation import check_arrays, inputs_like

__all__ = [
    "ATTENTION",
    "attention_backward",
    "attention_forward",
    "attention_step_backward",
    "attention_step_forward",
    "context_weights_gradient",
    "dot_product_attention",
    "dot_product_attention_backward",
]


_attend, _attend_backward = in_float32(reference.attend), in_float32(reference.attend_backward)


#: The LSTM with attention: `recurrent_forward` takes the projected cells A (N, L, H) in the place of ``h0``, and Wattn.
ATTENTION = Cell("attention_lstm", CELLS["lstm"], attends=True)


def context_weights_gradient(gradients: RecurrenceGradients, forward: Recurrence) -> Array:
    """Return the gradient with respect to Wattn, after `capgpu.layers.recurrence.backward_through_time`.

    Parameters
    ----------
    gradients : RecurrenceGradients
        From ``backward_through_time``.
    forward : Recurrence
        From `recurrent_forward`.

    Returns
    -------
    array, shape (H, 4H)
        The gradient.
    """
    states = forward.states
    assert isinstance(states, AttentionStates)
    return forward.kernels.matmul(states.contexts, gradients.dprojected, transpose_a=True)


def _cells(A: Array, xp: Any) -> Array:
    """Turn (N, H, R, C) into (N, R C, H)."""
    count, size, height, width = A.shape
    return xp.permute_dims(xp.reshape(A, (count, size, height * width)), (0, 2, 1))


def _grid(cells: Array, shape: tuple[int, ...], xp: Any) -> Array:
    """Undo `_cells`."""
    return xp.reshape(xp.permute_dims(cells, (0, 2, 1)), shape)


def dot_product_attention(prev_h: Array, A: Array) -> tuple[Array, Array]:
    """Weigh the cells of each picture by the hidden state, and sum them.

    Parameters
    ----------
    prev_h : array, shape (N, H)
        Hidden state before a step.
    A : array, shape (N, H, R, C)
        Projected features of each picture.

    Returns
    -------
    attn : array, shape (N, H)
        Weighted sum of the cells.
    attn_weights : array, shape (N, R, C)
        The weights, the softmax of ``A_l prev_h / sqrt(H)`` over all cells.

    Notes
    -----
    Vaswani et al. 2017, eq. 1.
    """
    xp = check_arrays(prev_h=(prev_h, "N H"), A=(A, "N H R C"))
    weights, attn = _attend(prev_h, _cells(A, xp))
    return attn, xp.reshape(weights, (A.shape[0], *A.shape[2:]))


def dot_product_attention_backward(dattn: Array, prev_h: Array, A: Array, attn_weights: Array) -> tuple[Array, Array]:
    """Compute the backward pass of `dot_product_attention`.

    Parameters
    ----------
    dattn : array, shape (N, H)
        Gradient with respect to the weighted sum.
    prev_h, A, attn_weights
        Arguments and second result of the forward pass.

    Returns
    -------
    dprev_h : array, shape (N, H)
        Gradient with respect to the hidden state.
    dA : array, shape (N, H, R, C)
        Gradient with respect to the projected features.
    """
    xp = check_arrays(
        prev_h=(prev_h, "N H"), A=(A, "N H R C"), attn_weights=(attn_weights, "N R C"), dattn=(dattn, "N H")
    )
    weights = xp.reshape(attn_weights, (A.shape[0], -1))
    dprev_h, dcells = _attend_backward(dattn, weights, prev_h, _cells(A, xp))
    return dprev_h, _grid(dcells, A.shape, xp)


def attention_step_forward(
    x: Array, prev_h: Array, prev_c: Array, attn: Array, Wx: Array, Wh: Array, Wattn: Array, b: Array
) -> tuple[Array, Array, Any]:
    """Advance an LSTM by one step that reads the result of attention beside its input.

    Parameters
    ----------
    x : array, shape (N, D)
        Input at this step.
    prev_h, prev_c : array, shape (N, H)
        Hidden and cell state before it.
    attn : array, shape (N, H)
        From `dot_product_attention`.
    Wx, Wh, Wattn, b : array, shape (D, 4H), (H, 4H), (H, 4H), (4H,)
        Input weights, recurrent weights, weights of `attn`, biases.

    Returns
    -------
    next_h, next_c : array, shape (N, H)
        Hidden and cell state after it.
    cache : object
        For `attention_step_backward`.

    Notes
    -----
    The exercise's ``lstm_step_forward`` with its arguments ``attn`` and ``Wattn``.
    """
    x, prev_h, prev_c, attn = inputs_like(Wx, x, prev_h, prev_c, attn)
    xp = check_arrays(
        x=(x, "N D"),
        prev_h=(prev_h, "N H"),
        prev_c=(prev_c, "N H"),
        attn=(attn, "N H"),
        Wx=(Wx, "D 4H"),
        Wh=(Wh, "H 4H"),
        Wattn=(Wattn, "H 4H"),
        b=(b, "4H"),
    )
    # attn is a further input
    inputs, weights = xp.concat([x, attn], axis=1), xp.concat([Wx, Wattn], axis=0)
    forward = recurrent_forward(LSTM, inputs, prev_h, prev_c, weights, Wh, b, Packing.full(x.shape[0], 1).batch_sizes)
    hidden, cell, *_ = forward.states
    assert cell is not None  # an LSTM has cell states
    return hidden, cell, LayerCache("attention_step_forward", forward)


def attention_step_backward(
    dnext_h: Array, dnext_c: Array, cache: Any
) -> tuple[Array, Array, Array, Array, Array, Array, Array, Array]:
    """Compute the backward pass of `attention_step_forward`.

    Parameters
    ----------
    dnext_h, dnext_c : array, shape (N, H)
        Gradients with respect to the next hidden and cell state.
    cache : object
        From `attention_step_forward`.

    Returns
    -------
    dx, dprev_h, dprev_c, dattn, dWx, dWh, dWattn, db : array
        Gradients, shaped like the forward pass's arguments.
    """
    forward = read_cache(cache, "attention_step_forward")
    dinputs, dh0, dc0, dweights, dWh, db = step_gradients(dnext_h, dnext_c, forward)
    assert dc0 is not None  # an LSTM has cell states
    size = dinputs.shape[1] - dh0.shape[1]
    return dinputs[:, :size], dh0, dc0, dinputs[:, size:], dweights[:size, :], dWh, dweights[size:, :], db


def attention_forward(x: Array, A: Array, Wx: Array, Wh: Array, Wattn: Array, b: Array) -> tuple[Array, Any]:
    """Run an attention LSTM over whole sequences; the mean of the projected features is the initial state h and c.

    Parameters
    ----------
    x : array, shape (N, T, D)
        Inputs.
    A : array, shape (N, H, R, C)
        Projected features of each picture.
    Wx, Wh, Wattn, b : array, shape (D, 4H), (H, 4H), (H, 4H), (4H,)
        Input weights, recurrent weights, weights of the weighted sums, biases.

    Returns
    -------
    h : array, shape (N, T, H)
        Hidden states of all steps.
    cache : object
        For `attention_backward`.
    """
    x, A = inputs_like(Wx, x, A)
    xp = check_arrays(
        x=(x, "N T D"), A=(A, "N H R C"), Wx=(Wx, "D 4H"), Wh=(Wh, "H 4H"), Wattn=(Wattn, "H 4H"), b=(b, "4H")
    )
    count, steps = x.shape[:2]
    batch_sizes = Packing.full(count, steps).batch_sizes
    forward = recurrent_forward(
        ATTENTION, to_time_major(x, xp), _cells(A, xp), None, Wx, Wh, b, batch_sizes, Wattn=Wattn
    )
    return from_time_major(forward.states.hidden, count, xp), LayerCache("attention_forward", (forward, A.shape))


def attention_backward(dh: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Compute the backward pass of `attention_forward`, from the gradients of all hidden states.

    Parameters
    ----------
    dh : array, shape (N, T, H)
        Gradient of the loss with respect to each hidden state, not counting what flows through later steps.
    cache : object
        From `attention_forward`.

    Returns
    -------
    dx : array, shape (N, T, D)
        Gradient with respect to the inputs.
    dA : array, shape (N, H, R, C)
        Gradient with respect to the projected features.
    dWx, dWh, dWattn, db : array
        Gradients with respect to the parameters.
    """
    forward, shape = read_cache(cache, "attention_forward")
    xp, dhidden = check_hidden_gradient(dh, forward)
    gradients = backward_through_time(dhidden, None, forward)
    dWh = recurrent_weights_gradient(gradients, forward)
    dx, dWx, db = input_gradients(gradients, forward)
    dWattn = context_weights_gradient(gradients, forward)
    return from_time_major(dx, dh.shape[0], xp), _grid(gradients.dh0, shape, xp), dWx, dWh, dWattn, db
