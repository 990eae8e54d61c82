"""Matrix products, by cuBLAS through CuPy. TF32 is the user's choice: ``CUPY_TF32=1``."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from capgpu.kernels.cuda.arrays import check_device
from capgpu.kernels.cuda.module import record

__all__ = ["matmul", "product"]


def product(a: Any, b: Any, out: Any = None) -> Any:
    """Multiply two matrices; transposes are given as views, which costs no copy.

    Parameters
    ----------
    a, b : array, shape (m, k) and (k, n)
        The factors.
    out : array, shape (m, n), optional
        Written; C-contiguous, or the transposed view of such an array.

    Returns
    -------
    array, shape (m, n)
        The result.
    """
    record("matmul")
    if out is not None and not out.flags.c_contiguous:
        # CuPy writes C-contiguous results alone: compute the transpose
        return import_module("cupy").dot(b.T, a.T, out.T).T
    return import_module("cupy").dot(a, b, out)


def matmul(a: Any, b: Any, bias: Any = None, *, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    """Multiply two matrices; see `capgpu.kernels.reference.product.matmul`."""
    check_device(a=a, b=b, bias=bias)
    out = product(a.T if transpose_a else a, b.T if transpose_b else b)
    if bias is not None:
        record("add")
        out += bias
    return out
