"""Long short-term memory: one step, and whole sequences. Gates in the order i, f, o, g."""

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

__all__ = ["LSTM", "lstm_backward", "lstm_forward", "lstm_step_backward", "lstm_step_forward"]


def _forward(kernels: Kernels, projected: Array, o: Operands) -> States:
    return kernels.lstm_forward(
        projected, o.rows, o.h0, o.c0, o.Wh, o.batch_sizes, bias=o.b, h0_bias=o.h0_bias, order=o.order
    )


def _backward(dhidden: Array, dcell: Array | None, forward: Recurrence) -> Gradients:
    o, states = forward.operands, forward.states
    # mypy: an LSTM has both
    assert states.gates is not None
    assert states.cell is not None
    dprojected, dh0, dc0 = forward.kernels.lstm_backward(
        dhidden, dcell, states.gates, states.cell, o.c0, o.Wh, o.batch_sizes, order=o.order
    )
    return Gradients(dprojected, dprojected, dh0, dc0)


LSTM = Cell("lstm", n_gates=4, n_biases=4, has_cell_state=True, forward=_forward, backward=_backward)


def lstm_step_forward(
    x: Array, prev_h: Array, prev_c: Array, Wx: Array, Wh: Array, b: Array
) -> tuple[Array, Array, Any]:
    """Advance an LSTM by one step.

    Parameters
    ----------
    x : array, shape (N, D)
        Input at this step.
    prev_h, prev_c : array, shape (N, H)
        Hidden and cell state before it.
    Wx, Wh, b : array, shape (D, 4H), (H, 4H), (4H,)
        Input weights, recurrent weights, biases.

    Returns
    -------
    next_h, next_c : array, shape (N, H)
        Hidden and cell state after it.
    cache : object
        For `lstm_step_backward`.

    Notes
    -----
    Hochreiter and Schmidhuber (1997), with the forget gate of Gers, Schmidhuber and Cummins (2000).
    """
    x, prev_h, prev_c = inputs_like(Wx, x, prev_h, prev_c)
    check_arrays(
        x=(x, "N D"),
        prev_h=(prev_h, "N H"),
        prev_c=(prev_c, "N H"),
        Wx=(Wx, "D 4H"),
        Wh=(Wh, "H 4H"),
        b=(b, "4H"),
    )
    cache = recurrent_forward(LSTM, x, prev_h, prev_c, Wx, Wh, b, Packing.full(x.shape[0], 1).batch_sizes)
    hidden, cell, *_ = cache.states
    assert cell is not None  # an LSTM has cell states
    return hidden, cell, cache


def lstm_step_backward(dnext_h: Array, dnext_c: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Compute the backward pass of `lstm_step_forward`.

    Parameters
    ----------
    dnext_h, dnext_c : array, shape (N, H)
        Gradients with respect to the next hidden and cell state.
    cache : object
        From `lstm_step_forward`.

    Returns
    -------
    dx, dprev_h, dprev_c, dWx, dWh, db : array
        Gradients, shaped like the forward pass's arguments.
    """
    check_arrays(h=(cache.states.hidden, "N H"), dnext_h=(dnext_h, "N H"), dnext_c=(dnext_c, "N H"))
    dx, dh0, dc0, dWx, dWh, db = recurrent_backward(dnext_h, dnext_c, cache)
    assert dc0 is not None  # an LSTM has cell states
    return dx, dh0, dc0, dWx, dWh, db


def lstm_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, Any]:
    """Run an LSTM over whole sequences; the initial cell state is zero.

    Parameters
    ----------
    x : array, shape (N, T, D)
        Inputs.
    h0 : array, shape (N, H)
        Initial hidden state.
    Wx, Wh, b : array, shape (D, 4H), (H, 4H), (4H,)
        Input weights, recurrent weights, biases.

    Returns
    -------
    h : array, shape (N, T, H)
        Hidden states of all steps.
    cache : object
        For `lstm_backward`.
    """
    x, h0 = inputs_like(Wx, x, h0)
    xp = check_arrays(x=(x, "N T D"), h0=(h0, "N H"), Wx=(Wx, "D 4H"), Wh=(Wh, "H 4H"), b=(b, "4H"))
    count, steps = x.shape[:2]
    batch_sizes = Packing.full(count, steps).batch_sizes
    cache = recurrent_forward(LSTM, to_time_major(x, xp), h0, None, Wx, Wh, b, batch_sizes)
    return from_time_major(cache.states.hidden, count, xp), cache


def lstm_backward(dh: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Compute the backward pass of `lstm_forward`, from the gradients of all hidden states.

    Parameters
    ----------
    dh : array, shape (N, T, H)
        Gradient of the loss with respect to each hidden state, not counting what flows through later steps.
    cache : object
        From `lstm_forward`.

    Returns
    -------
    dx : array, shape (N, T, D)
        Gradient with respect to the inputs.
    dh0 : array, shape (N, H)
        Gradient with respect to the initial hidden state.
    dWx, dWh, db : array
        Gradients with respect to the parameters.
    """
    xp, dhidden = check_hidden_gradient(dh, cache)
    dx, dh0, _, dWx, dWh, db = recurrent_backward(dhidden, None, cache)
    return from_time_major(dx, dh.shape[0], xp), dh0, dWx, dWh, db
