"""Affine layers: one product for a batch of rows, or for all time steps of a batch."""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.errors import InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.layers.cache import LayerCache, read_cache
from capgpu.validation import check_arrays, inputs_like

__all__ = [
    "affine_backward",
    "affine_forward",
    "affine_gradients",
    "temporal_affine_backward",
    "temporal_affine_forward",
]


def affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, Any]:
    """Compute ``x w + b``, each sample flattened to a row.

    Parameters
    ----------
    x : array, shape (N, d_1, ..., d_k)
        Samples; D is the product of d_1..d_k.
    w : array, shape (D, M)
        Weights.
    b : array, shape (M,)
        Biases.

    Returns
    -------
    out : array, shape (N, M)
        The result.
    cache : object
        For `affine_backward`.

    Raises
    ------
    TypeError
        For mixed libraries or dtypes.
    ValueError
        For shapes that do not fit.
    """
    (x,) = inputs_like(w, x)
    xp = check_arrays(x=(x, "N ..."), w=(w, "D M"), b=(b, "M"))
    flat = xp.reshape(x, (x.shape[0], -1))
    if flat.shape[1] != w.shape[0]:
        raise InvalidValueError(
            f"x: expected {w.shape[0]} features per sample, as w of shape {tuple(w.shape)} has rows, got "
            f"{flat.shape[1]}: shape {tuple(x.shape)}."
        )
    return kernels_for(x).matmul(flat, w, b), LayerCache("affine_forward", (x, w))


def affine_backward(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Compute the backward pass of `affine_forward`.

    Parameters
    ----------
    dout : array, shape (N, M)
        Gradient with respect to the result.
    cache : object
        From `affine_forward`.

    Returns
    -------
    dx : array, shape (N, d_1, ..., d_k)
        Gradient with respect to `x`.
    dw : array, shape (D, M)
        Gradient with respect to `w`.
    db : array, shape (M,)
        Gradient with respect to `b`.
    """
    x, w = read_cache(cache, "affine_forward")
    xp = check_arrays(x=(x, "N ..."), w=(w, "D M"), dout=(dout, "N M"))
    flat = xp.reshape(x, (x.shape[0], -1))
    dx, dw, db = affine_gradients(dout, flat, w)
    return xp.reshape(dx, x.shape), dw, db


def temporal_affine_forward(x: Array, w: Array, b: Array) -> tuple[Array, Any]:
    """Compute ``x w + b`` at every time step, as one product.

    Parameters
    ----------
    x : array, shape (N, T, D), or (..., D)
        Vectors of a minibatch of sequences.
    w : array, shape (D, M)
        Weights.
    b : array, shape (M,)
        Biases.

    Returns
    -------
    out : array, shape (N, T, M), or (..., M)
        The result.
    cache : object
        For `temporal_affine_backward`.
    """
    (x,) = inputs_like(w, x)
    xp = check_arrays(x=(x, "N ..."), w=(w, "D M"), b=(b, "M"))
    if x.shape[-1] != w.shape[0]:
        raise InvalidValueError(f"x: expected shape (N, T, D) with D = {w.shape[0]}, as in w, got {tuple(x.shape)}.")
    out = kernels_for(x).matmul(xp.reshape(x, (-1, x.shape[-1])), w, b)
    return xp.reshape(out, (*x.shape[:-1], w.shape[1])), LayerCache("temporal_affine_forward", (x, w))


def temporal_affine_backward(dout: Array, cache: Any) -> tuple[Array, Array, Array]:
    """Compute the backward pass of `temporal_affine_forward`.

    Parameters
    ----------
    dout : array, shape (N, T, M)
        Gradient with respect to the result.
    cache : object
        From `temporal_affine_forward`.

    Returns
    -------
    dx : array, shape (N, T, D)
        Gradient with respect to `x`.
    dw : array, shape (D, M)
        Gradient with respect to `w`.
    db : array, shape (M,)
        Gradient with respect to `b`.
    """
    x, w = read_cache(cache, "temporal_affine_forward")
    xp = check_arrays(x=(x, "N ..."), w=(w, "D M"), dout=(dout, "N ..."))
    if tuple(dout.shape) != (*x.shape[:-1], w.shape[1]):
        raise InvalidValueError(
            f"dout: expected shape {(*x.shape[:-1], w.shape[1])}, (N, T, M) with M = {w.shape[1]}, got "
            f"{tuple(dout.shape)}."
        )
    flat = xp.reshape(dout, (-1, w.shape[1]))
    dx, dw, db = affine_gradients(flat, xp.reshape(x, (-1, x.shape[-1])), w)
    return xp.reshape(dx, x.shape), dw, db


def affine_gradients(dout: Array, x: Array, w: Array) -> tuple[Array, Array, Array]:
    """Return the gradients of ``x w + b``, one product each over all rows.

    Parameters
    ----------
    dout : array, shape (N, M)
        Gradient with respect to the result.
    x : array, shape (N, D)
        Inputs, one row each.
    w : array, shape (D, M)
        Weights.

    Returns
    -------
    dx : array, shape (N, D)
        Gradient with respect to the inputs.
    dw : array, shape (D, M)
        Gradient with respect to the weights.
    db : array, shape (M,)
        Gradient with respect to the biases.
    """
    kernels = kernels_for(dout)
    dx, dw = kernels.matmul(dout, w, transpose_b=True), kernels.matmul(x, dout, transpose_a=True)
    return dx, dw, kernels.column_sums(dout)
