"""Vanilla RNN with tanh: one step, and whole sequences."""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.kernels.cells import CELLS
from capgpu.layers import batch_first
from capgpu.layers.recurrence import Cell

__all__ = ["RNN", "rnn_backward", "rnn_forward", "rnn_step_backward", "rnn_step_forward"]


RNN = Cell("rnn", CELLS["rnn"])


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
    states, cache = batch_first.step_forward(RNN, x, prev_h, None, Wx, Wh, b)
    return states.hidden, cache


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
    dx, dh0, _, dWx, dWh, db = batch_first.step_backward(RNN, dnext_h, None, cache)
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
    return batch_first.sequences_forward(RNN, x, h0, Wx, Wh, b)


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
    return batch_first.sequences_backward(RNN, dh, cache)
