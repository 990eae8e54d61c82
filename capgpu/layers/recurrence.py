"""What the recurrent layers share: time-major rows, and the recurrent weights' gradient."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from capgpu.backend import Array, array_namespace
from capgpu.kernels import kernels_for

__all__ = ["from_time_major", "previous_hidden", "recurrent_gradient", "to_time_major"]


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
    for before, count in pairwise(counts):
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
    before = previous_hidden(hidden, h0, batch_sizes)
    gradient: Array = kernels_for(dprojected).matmul(before, dprojected, transpose_a=True)
    return gradient
