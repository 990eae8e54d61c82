"""Long short-term memory: one step, and whole sequences. Gates in the order i, f, o, g."""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.errors import InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.layers.affine import affine_gradients
from capgpu.layers.recurrence import from_time_major, recurrent_gradient, to_time_major
from capgpu.sequence import Packing
from capgpu.validation import check_arrays

__all__ = ["lstm_backward", "lstm_forward", "lstm_step_backward", "lstm_step_forward"]


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
    check_arrays(
        x=(x, "N D"),
        prev_h=(prev_h, "N H"),
        prev_c=(prev_c, "N H"),
        Wx=(Wx, "D 4H"),
        Wh=(Wh, "H 4H"),
        b=(b, "4H"),
    )
    return _forward(x, prev_h, prev_c, Wx, Wh, b, 1)


def lstm_step_backward(dnext_h: Array, dnext_c: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array, Array]:
    """Carry gradients back through `lstm_step_forward`.

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
    check_arrays(h=(cache[1], "N H"), dnext_h=(dnext_h, "N H"), dnext_c=(dnext_c, "N H"))
    dx, dh0, dc0, dWx, dWh, db = _backward(dnext_h, dnext_c, cache)
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
    xp = check_arrays(x=(x, "N T D"), h0=(h0, "N H"), Wx=(Wx, "D 4H"), Wh=(Wh, "H 4H"), b=(b, "4H"))
    hidden, _, cache = _forward(to_time_major(x, xp), h0, None, Wx, Wh, b, x.shape[1])
    return from_time_major(hidden, x.shape[0], xp), cache


def lstm_backward(dh: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Carry gradients of all hidden states back through `lstm_forward`.

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
    xp = check_arrays(h0=(cache[2], "N H"), dh=(dh, "N T H"))
    count = dh.shape[0]
    if dh.shape[1] * count != cache[1].shape[0]:
        raise InvalidValueError(f"dh has {dh.shape[1]} steps; the forward pass had {cache[1].shape[0] // count}.")
    dx, dh0, _, dWx, dWh, db = _backward(to_time_major(dh, xp), None, cache)
    return from_time_major(dx, count, xp), dh0, dWx, dWh, db


def _forward(
    x: Array, h0: Array, c0: Array | None, Wx: Array, Wh: Array, b: Array, steps: int
) -> tuple[Array, Array, Any]:
    batch_sizes = Packing.full(h0.shape[0], steps).batch_sizes
    kernels = kernels_for(x)
    hidden, cell, gates = kernels.lstm_forward(kernels.matmul(x, Wx, b), None, h0, c0, Wh, batch_sizes)
    return hidden, cell, (x, hidden, h0, cell, c0, gates, Wx, Wh, batch_sizes)


def _backward(dhidden: Array, dcell: Array | None, cache: Any) -> tuple[Array, Array, Array, Array, Array, Array]:
    x, hidden, h0, cell, c0, gates, Wx, Wh, batch_sizes = cache
    dprojected, dh0, dc0 = kernels_for(dhidden).lstm_backward(dhidden, dcell, gates, cell, c0, Wh, batch_sizes)
    dx, dWx, db = affine_gradients(dprojected, x, Wx)
    return dx, dh0, dc0, dWx, recurrent_gradient(dprojected, hidden, h0, batch_sizes), db
