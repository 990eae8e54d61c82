"""What the recurrent layers share: time-major rows, and the gradients that are one product over all steps."""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array, array_namespace

__all__ = ["from_time_major", "input_gradients", "previous_hidden", "recurrent_gradient", "to_time_major"]


def to_time_major(x: Array, xp: Any) -> Array:
    """Lay out a batch-first array (N, T, D) as rows of time steps (T N, D)."""
    count, steps, size = x.shape
    return xp.reshape(xp.permute_dims(x, (1, 0, 2)), (steps * count, size))


def from_time_major(rows: Array, count: int, xp: Any) -> Array:
    """Undo `to_time_major` for `count` sequences."""
    steps = rows.shape[0] // count
    return xp.permute_dims(xp.reshape(rows, (steps, count, rows.shape[1])), (1, 0, 2))


def previous_hidden(hidden: Array, h0: Array, batch_sizes: Any) -> Array:
    """Return the hidden state that each packed row started from.

    Parameters
    ----------
    hidden : array, shape (M, H)
        State after each packed row.
    h0 : array, shape (batch_sizes[0], H)
        Initial state.
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Rows of each step.

    Returns
    -------
    array, shape (M, H)
        State before each packed row.
    """
    xp = array_namespace(hidden, h0)
    counts = batch_sizes.tolist()
    if not counts:
        return hidden
    if counts[0] == counts[-1]:
        return xp.concat([h0, hidden[: hidden.shape[0] - counts[0], :]], axis=0)
    parts, start = [h0], 0
    for before, count in zip(counts[:-1], counts[1:], strict=True):
        parts.append(hidden[start : start + count, :])
        start += before
    return xp.concat(parts, axis=0)


def recurrent_gradient(dprojected: Array, hidden: Array, h0: Array, batch_sizes: Any) -> Array:
    """Return the gradient of the recurrent weights, one product over all steps.

    Parameters
    ----------
    dprojected : array, shape (M, G)
        Gradient with respect to the pre-activations.
    hidden, h0, batch_sizes
        As for `previous_hidden`.

    Returns
    -------
    array, shape (H, G)
        Gradient with respect to ``Wh``.
    """
    xp = array_namespace(dprojected, hidden)
    return xp.matrix_transpose(previous_hidden(hidden, h0, batch_sizes)) @ dprojected


def input_gradients(dprojected: Array, x: Array, Wx: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of ``x @ Wx + b``, one product each over all rows.

    Parameters
    ----------
    dprojected : array, shape (M, G)
        Gradient with respect to the pre-activations.
    x : array, shape (M, D)
        Inputs, one row each.
    Wx : array, shape (D, G)
        Input weights.

    Returns
    -------
    dx : array, shape (M, D)
        Gradient with respect to the inputs.
    dWx : array, shape (D, G)
        Gradient with respect to the weights.
    db : array, shape (G,)
        Gradient with respect to the biases.
    """
    xp = array_namespace(dprojected, x, Wx)
    dx = dprojected @ xp.matrix_transpose(Wx)
    return dx, xp.matrix_transpose(x) @ dprojected, xp.sum(dprojected, axis=0)
