"""Word embedding: a row of the table for each token id."""

from __future__ import annotations

from numbers import Integral
from typing import Any

from capgpu.backend import Array, array_namespace
from capgpu.errors import InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.layers.cache import LayerCache, read_cache
from capgpu.validation import check_arrays, check_same_dtype, check_token_ids

__all__ = ["word_embedding_backward", "word_embedding_forward"]


def word_embedding_forward(x: Array, W: Array) -> tuple[Array, Any]:
    """Look up word vectors.

    Parameters
    ----------
    x : array or nested list of int, shape (N, T), or any other shape
        Token ids in ``[0, V)``.
    W : array, shape (V, D)
        Word vectors.

    Returns
    -------
    out : array, shape (N, T, D)
        ``W[x]``: the shape of `x`, and D.
    cache : object
        For `word_embedding_backward`.

    Raises
    ------
    TypeError
        For ids that are not integers.
    ValueError
        For ids out of range.
    """
    xp = check_arrays(W=(W, "V D"))
    if isinstance(x, (Integral, list, tuple)):
        x = xp.asarray(x, device=W.device)
    array_namespace(x=x, W=W)
    if x.size == 0:
        raise InvalidValueError(f"x: expected at least one token id, got shape {tuple(x.shape)}.")
    check_token_ids("x", x, W.shape[0], xp, "W")
    out = xp.take(W, xp.reshape(x, (-1,)), axis=0)
    return xp.reshape(out, (*x.shape, W.shape[1])), LayerCache("word_embedding_forward", (x, W.shape[0]))


def word_embedding_backward(dout: Array, cache: Any) -> Array:
    """Compute the backward pass of `word_embedding_forward`; the sum over equal words has a fixed order.

    Parameters
    ----------
    dout : array, shape (N, T, D), or that of `x` and D
        Gradient with respect to the looked-up vectors.
    cache : object
        From `word_embedding_forward`.

    Returns
    -------
    array, shape (V, D)
        Gradient with respect to the table.
    """
    x, count = read_cache(cache, "word_embedding_forward")
    xp = array_namespace(dout=dout, x=x)
    check_same_dtype(xp, dout=dout)
    if tuple(dout.shape[:-1]) != tuple(x.shape) or dout.ndim != x.ndim + 1:
        expected = ", ".join([*map(str, x.shape), "D"])
        raise InvalidValueError(f"dout: expected shape ({expected}), as x had it, got {tuple(dout.shape)}.")
    rows = xp.reshape(dout, (-1, dout.shape[-1]))
    gradient: Array = kernels_for(dout).embedding_gradient(rows, xp.reshape(x, (-1,)), count)
    return gradient
