"""Vanilla RNN with tanh: one step, and whole sequences."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from capgpu.backend import Array
from capgpu.kernels import States
from capgpu.layers.recurrence import (
    Cell,
    Gradients,
    Operands,
    Recurrence,
    check_hidden_gradient,
    from_time_major,
    recurrent_backward,
    recurrent_forward,
    to_time_major,
)
from capgpu.sequence import Packing
from capgpu.validation import check_arrays, inputs_like

if TYPE_CHECKING:
    from capgpu.kernels.reference import Kernels

__all__ = ["RNN", "rnn_backward", "rnn_forward", "rnn_step_backward", "rnn_step_forward"]


def _forward(kernels: Kernels, projected: Array, o: Operands) -> States:
    return kernels.rnn_forward(projected, o.rows, o.h0, o.Wh, o.batch_sizes, bias=o.b, h0_bias=o.h0_bias, order=o.order)


def _backward(dhidden: Array, dcell: Array | None, forward: Recurrence) -> Gradients:
    o, states = forward.operands, forward.states
    dprojected, dh0 = forward.kernels.rnn_backward(dhidden, states.hidden, o.Wh, o.batch_sizes, order=o.order)
    return Gradients(dprojected, dprojected, dh0, None)


RNN = Cell("rnn", n_gates=1, n_biases=1, has_cell_state=False, forward=_forward, backward=_backward)


def rnn_step_forward(x: Array, prev_h: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, Any]:
    """Advance a vanilla RNN by one step: ``tanh(x Wx + prev_h Wh + b)``.

    Parameters
    ----------
    x : array, shape (N, D)
        Input at this step.
    prev_h : array, shape (N, H)
        Hidden state before it.
    Wx, Wh, b : array, shape (D, H), (H, H), (H,)
        Input weights, recurrent weights, biases.

    Returns
    -------
    next_h : array, shape (N, H)
        Hidden state after it.
    cache : object
        For `rnn_step_backward`.
    """
    x, prev_h = inputs_like(Wx, x, prev_h)
    check_arrays(x=(x, "N D"), prev_h=(prev_h, "N H"), Wx=(Wx, "D H"), Wh=(Wh, "H H"), b=(b, "H"))
    cache = recurrent_forward(RNN, x, prev_h, None, Wx, Wh, b, Packing.full(x.shape[0], 1).batch_sizes)
    return cache.states.hidden, cache


def rnn_step_backward(dnext_h: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Compute the backward pass of `rnn_step_forward`.

    Parameters
    ----------
    dnext_h : array, shape (N, H)
        Gradient with respect to the next hidden state.
    cache : object
        From `rnn_step_forward`.

    Returns
    -------
    dx, dprev_h, dWx, dWh, db : array
        Gradients, shaped like the forward pass's arguments.
    """
    check_arrays(h=(cache.states.hidden, "N H"), dnext_h=(dnext_h, "N H"))
    dx, dh0, _, dWx, dWh, db = recurrent_backward(dnext_h, None, cache)
    return dx, dh0, dWx, dWh, db


def rnn_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, Any]:
    """Run a vanilla RNN over whole sequences.

    Parameters
    ----------
    x : array, shape (N, T, D)
        Inputs.
    h0 : array, shape (N, H)
        Initial hidden state.
    Wx, Wh, b : array, shape (D, H), (H, H), (H,)
        Input weights, recurrent weights, biases.

    Returns
    -------
    h : array, shape (N, T, H)
        Hidden states of all steps.
    cache : object
        For `rnn_backward`.
    """
    x, h0 = inputs_like(Wx, x, h0)
    xp = check_arrays(x=(x, "N T D"), h0=(h0, "N H"), Wx=(Wx, "D H"), Wh=(Wh, "H H"), b=(b, "H"))
    count, steps = x.shape[:2]
    batch_sizes = Packing.full(count, steps).batch_sizes
    cache = recurrent_forward(RNN, to_time_major(x, xp), h0, None, Wx, Wh, b, batch_sizes)
    return from_time_major(cache.states.hidden, count, xp), cache


def rnn_backward(dh: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Compute the backward pass of `rnn_forward`, from the gradients of all hidden states.

    Parameters
    ----------
    dh : array, shape (N, T, H)
        Gradient of the loss with respect to each hidden state, not counting what flows through later steps.
    cache : object
        From `rnn_forward`.

    Returns
    -------
    dx : array, shape (N, T, D)
        Gradient with respect to the inputs.
    dh0 : array, shape (N, H)
        Gradient with respect to the initial state.
    dWx, dWh, db : array
        Gradients with respect to the parameters.
    """
    xp, dhidden = check_hidden_gradient(dh, cache)
    dx, dh0, _, dWx, dWh, db = recurrent_backward(dhidden, None, cache)
    return from_time_major(dx, dh.shape[0], xp), dh0, dWx, dWh, db
