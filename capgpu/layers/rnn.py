"""Vanilla RNN with tanh: one step, and whole sequences."""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.errors import InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.layers.affine import affine_gradients
from capgpu.layers.recurrence import from_time_major, recurrent_gradient, to_time_major
from capgpu.sequence import Packing
from capgpu.validation import check_arrays

__all__ = ["rnn_backward", "rnn_forward", "rnn_step_backward", "rnn_step_forward"]


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
    check_arrays(x=(x, "N D"), prev_h=(prev_h, "N H"), Wx=(Wx, "D H"), Wh=(Wh, "H H"), b=(b, "H"))
    return _forward(x, prev_h, Wx, Wh, b, 1)


def rnn_step_backward(dnext_h: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Carry a gradient back through `rnn_step_forward`.

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
    check_arrays(h=(cache[1], "N H"), dnext_h=(dnext_h, "N H"))
    return _backward(dnext_h, cache)


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
    xp = check_arrays(x=(x, "N T D"), h0=(h0, "N H"), Wx=(Wx, "D H"), Wh=(Wh, "H H"), b=(b, "H"))
    hidden, cache = _forward(to_time_major(x, xp), h0, Wx, Wh, b, x.shape[1])
    return from_time_major(hidden, x.shape[0], xp), cache


def rnn_backward(dh: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Carry gradients of all hidden states back through `rnn_forward`.

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
    xp = check_arrays(h0=(cache[2], "N H"), dh=(dh, "N T H"))
    count = dh.shape[0]
    if dh.shape[1] * count != cache[1].shape[0]:
        raise InvalidValueError(f"dh has {dh.shape[1]} steps; the forward pass had {cache[1].shape[0] // count}.")
    dx, *others = _backward(to_time_major(dh, xp), cache)
    return (from_time_major(dx, count, xp), *others)


def _forward(x: Array, h0: Array, Wx: Array, Wh: Array, b: Array, steps: int) -> tuple[Array, Any]:
    batch_sizes = Packing.full(h0.shape[0], steps).batch_sizes
    kernels = kernels_for(x)
    hidden = kernels.rnn_forward(kernels.matmul(x, Wx, b), None, h0, Wh, batch_sizes)
    return hidden, (x, hidden, h0, Wx, Wh, batch_sizes)


def _backward(dhidden: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    x, hidden, h0, Wx, Wh, batch_sizes = cache
    dprojected, dh0 = kernels_for(dhidden).rnn_backward(dhidden, hidden, Wh, batch_sizes)
    dx, dWx, db = affine_gradients(dprojected, x, Wx)
    return dx, dh0, dWx, recurrent_gradient(dprojected, hidden, h0, batch_sizes), db
