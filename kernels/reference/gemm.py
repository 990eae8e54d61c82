"""The oracle of the matrix product."""

from __future__ import annotations

from capgpu.backend import Array, array_namespace
from capgpu.kernels.contract import Precision
from capgpu.kernels.reference.precision import product

__all__ = ["matmul"]


def matmul(
    a: Array,
    b: Array,
    bias: Array | None = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    precision: Precision = "float32",
) -> Array:
    """Multiply two matrices.

    Parameters
    ----------
    a, b : array, shape (m, k) and (k, n)
        The factors; (k, m) and (n, k) where their transpose is to be taken.
    bias : array, shape (n,), optional
        Added to every row.
    transpose_a, transpose_b : bool
        Take the transpose of a factor.
    precision : {"float32", "bf16"}
        How the products read their factors (`capgpu.kernels.contract.Precision`).

    Returns
    -------
    array, shape (m, n)
        ``op(a) @ op(b) + bias``.
    """
    xp = array_namespace(a, b)
    if transpose_a:
        a = xp.matrix_transpose(a)
    if transpose_b:
        b = xp.matrix_transpose(b)
    out = product(a, b, precision)
    return out if bias is None else out + bias
