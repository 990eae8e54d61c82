"""Matrix products by cuBLAS. ``CUPY_TF32=1`` permits TF32.

With ``precision="bf16"`` cuBLAS is permitted to round float32 factors to bfloat16, on devices of compute capability 8.0
and newer. Older ones, and CuPy's own products where cuBLAS cannot be called directly, keep float32.
"""

from __future__ import annotations

from typing import Any

from capgpu.kernels.contract import Precision, check_precision
from capgpu.kernels.cuda import cublas
from capgpu.kernels.cuda.array_checks import check_device, contiguous, empty
from capgpu.kernels.cuda.device_calls import report
from capgpu.kernels.cuda.embedding import add_bias

__all__ = ["matmul", "product"]


def product(a: Any, b: Any, out: Any = None, precision: Precision = "float32") -> Any:
    """Multiply two matrices; transposed views are not copied.

    Parameters
    ----------
    a, b : array, shape (m, k) and (k, n)
        The factors.
    out : array, shape (m, n), optional
        Written; it, or its transpose, is row-major, possibly with gaps. It must not overlap the factors.
    precision : {"float32", "bf16"}
        Whether float32 factors may be rounded to bfloat16.

    Returns
    -------
    array, shape (m, n)
        The result.
    """
    report("matmul")
    cublas_library = cublas.library()
    if cublas_library is None or a.dtype != b.dtype:
        import cupy

        if out is not None and not out.flags.c_contiguous:
            # CuPy writes only C-contiguous results: compute the transpose
            return cupy.dot(b.T, a.T, out.T).T
        return cupy.dot(a, b, out)
    if out is None:
        out = empty((a.shape[0], b.shape[1]), a.dtype, "a matrix product")
    cublas.multiply(cublas_library, a, b, out, precision)
    return out


def matmul(
    a: Any,
    b: Any,
    bias: Any = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    precision: Precision = "float32",
) -> Any:
    """Multiply two matrices; see `capgpu.kernels.reference.gemm.matmul`."""
    check_precision(precision, a.dtype)
    check_device(a=a, b=b, bias=bias)
    a, b = a.T if transpose_a else a, b.T if transpose_b else b
    out = product(a, b, empty((a.shape[0], b.shape[1]), a.dtype, "a matrix product"), precision)
    if bias is not None:
        add_bias(contiguous(bias), out)
    return out
