"""Long short-term memory: one step, and whole sequences. Gates in the order i, f, o, g."""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.kernels.cells import CELLS
from capgpu.layers import batch_first
from capgpu.layers.recurrence import Cell

__all__ = ["LSTM", "lstm_backward", "lstm_forward", "lstm_step_backward", "lstm_step_forward"]


LSTM = Cell("lstm", CELLS["lstm"])


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
    With ``a = x Wx + prev_h Wh + b``, in blocks of H columns for the gates i, f, o and g::

        i = sigmoid(a_i);  f = sigmoid(a_f);  o = sigmoid(a_o);  g = tanh(a_g)
        next_c = f prev_c + i g;  next_h = o tanh(next_c)

    Hochreiter and Schmidhuber (1997), with the forget gate of Gers, Schmidhuber and Cummins (2000).
    """
    states, cache = batch_first.step_forward(LSTM, x, prev_h, prev_c, Wx, Wh, b)
    assert states.cell is not None  # an LSTM has cell states
    return states.hidden, states.cell, cache


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
    dx, dh0, dc0, dWx, dWh, db = batch_first.step_backward(LSTM, dnext_h, dnext_c, cache)
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
    return batch_first.sequences_forward(LSTM, x, h0, Wx, Wh, b)


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
    return batch_first.sequences_backward(LSTM, dh, cache)
