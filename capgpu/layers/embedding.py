"""Word embedding: a row of the table for each token id."""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array, array_namespace
from capgpu.errors import InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.validation import check_arrays, check_token_ids

__all__ = ["word_embedding_backward", "word_embedding_forward"]


def word_embedding_forward(x: Array, W: Array) -> tuple[Array, Any]:
    """Look up word vectors.

    Parameters
    ----------
    x : array of int, shape (N, T)
        Token ids in ``[0, V)``.
    W : array, shape (V, D)
        Word vectors.

    Returns
    -------
    out : array, shape (N, T, D)
        ``W[x]``.
    cache : object
        For `word_embedding_backward`.

    Raises
    ------
    TypeError
        For ids that are not integers.
    ValueError
        For ids out of range.
    """
    check_arrays(W=(W, "V D"))
    xp = array_namespace(x=x, W=W)
    if x.ndim != 2 or x.size == 0:
        raise InvalidValueError(f"x: expected shape (N, T) with N, T >= 1, got {tuple(x.shape)}.")
    check_token_ids("x", x, W.shape[0], xp, "W")
    out = xp.take(W, xp.reshape(x, (-1,)), axis=0)
    return xp.reshape(out, (*x.shape, W.shape[1])), (x, W.shape[0])


def word_embedding_backward(dout: Array, cache: Any) -> Array:
    """Compute the backward pass of `word_embedding_forward`; the sum over equal words has a fixed order.

    Parameters
    ----------
    dout : array, shape (N, T, D)
        Gradient with respect to the looked-up vectors.
    cache : object
        From `word_embedding_forward`.

    Returns
    -------
    array, shape (V, D)
        Gradient with respect to the table.
    """
    x, count = cache
    xp = check_arrays(dout=(dout, "N T D"))
    array_namespace(dout=dout, x=x)
    if tuple(dout.shape[:2]) != tuple(x.shape):
        raise InvalidValueError(
            f"dout: expected shape ({x.shape[0]}, {x.shape[1]}, D), as x had it, got {tuple(dout.shape)}."
        )
    rows = xp.reshape(dout, (-1, dout.shape[2]))
    gradient: Array = kernels_for(dout).embedding_gradient(rows, xp.reshape(x, (-1,)), count)
    return gradient
