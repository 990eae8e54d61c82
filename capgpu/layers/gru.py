"""Gated recurrent unit: one step, and whole sequences. Gates in the order r, z, n."""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.kernels.cells import CELLS
from capgpu.layers import batch_first
from capgpu.layers.recurrence import Cell

__all__ = ["GRU", "gru_backward", "gru_forward", "gru_step_backward", "gru_step_forward"]


GRU = Cell("gru", CELLS["gru"])


def gru_step_forward(x: Array, prev_h: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, Any]:
    """Advance a GRU by one step.

    Parameters
    ----------
    x : array, shape (N, D)
        Input at this step.
    prev_h : array, shape (N, H)
        Hidden state before it.
    Wx, Wh, b : array, shape (D, 3H), (H, 3H), (4H,)
        Input weights, recurrent weights, biases: of the gates r, z, n, and of the candidate's recurrent sum.

    Returns
    -------
    next_h : array, shape (N, H)
        Hidden state after it.
    cache : object
        For `gru_step_backward`.

    Notes
    -----
    With ``a = x Wx + b[:3H]`` and ``u = prev_h Wh``, in blocks of H columns for the gates r, z and n::

        r = sigmoid(a_r + u_r);  z = sigmoid(a_z + u_z);  n = tanh(a_n + r (u_n + b[3H:]))
        next_h = (1 - z) n + z prev_h

    Cho et al. (2014), in the form of PyTorch and cuDNN, whose reset gate is applied to the product.
    """
    states, cache = batch_first.step_forward(GRU, x, prev_h, None, Wx, Wh, b)
    return states.hidden, cache


def gru_step_backward(dnext_h: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Compute the backward pass of `gru_step_forward`.

    Parameters
    ----------
    dnext_h : array, shape (N, H)
        Gradient with respect to the next hidden state.
    cache : object
        From `gru_step_forward`.

    Returns
    -------
    dx, dprev_h, dWx, dWh, db : array
        Gradients, shaped like the forward pass's arguments.
    """
    dx, dh0, _, dWx, dWh, db = batch_first.step_backward(GRU, dnext_h, None, cache)
    return dx, dh0, dWx, dWh, db


def gru_forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, Any]:
    """Run a GRU over whole sequences.

    Parameters
    ----------
    x : array, shape (N, T, D)
        Inputs.
    h0 : array, shape (N, H)
        Initial hidden state.
    Wx, Wh, b : array, shape (D, 3H), (H, 3H), (4H,)
        Input weights, recurrent weights, biases: of the gates r, z, n, and of the candidate's recurrent sum.

    Returns
    -------
    h : array, shape (N, T, H)
        Hidden states of all steps.
    cache : object
        For `gru_backward`.
    """
    return batch_first.sequences_forward(GRU, x, h0, Wx, Wh, b)


def gru_backward(dh: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Compute the backward pass of `gru_forward`, from the gradients of all hidden states.

    Parameters
    ----------
    dh : array, shape (N, T, H)
        Gradient of the loss with respect to each hidden state, not counting what flows through later steps.
    cache : object
        From `gru_forward`.

    Returns
    -------
    dx : array, shape (N, T, D)
        Gradient with respect to the inputs.
    dh0 : array, shape (N, H)
        Gradient with respect to the initial state.
    dWx, dWh, db : array
        Gradients with respect to the parameters.
    """
    return batch_first.sequences_backward(GRU, dh, cache)
