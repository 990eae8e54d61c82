"""Direct calls of cuBLAS, which unlike CuPy's can be captured in a CUDA graph.

The library is the one that CuPy itself has loaded. Each thread has a handle for each device. A handle uses memory of
the current stream's workspace, never cuBLAS's own pool: a graph keeps it alive, and two streams never share it, which
cuBLAS requires for bitwise reproducibility. Sums of float16 and bfloat16 products are float32 throughout.

cuBLAS is column-major; a row-major matrix is passed as its transpose:

    out = a b    is    out^T = b^T a^T

so that a transposed view, or rows with gaps between them, need only a flag and a leading dimension, and no copy.
"""

from __future__ import annotations

import ctypes
import logging
import os
import sys
import threading
from functools import cache, lru_cache
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from capgpu.errors import InvalidValueError
from capgpu.kernels.contract import Precision
from capgpu.kernels.cuda.array_checks import dtype_name
from capgpu.kernels.cuda.compile import LaunchError, device_limits, refuse_fork
from capgpu.kernels.cuda.workspace import workspace

__all__ = ["PROTOTYPES", "WORKSPACE_BYTES", "CublasError", "forget", "library", "multiply"]

logger = logging.getLogger("capgpu")

#: Workspace bytes of a handle. NVIDIA recommends 32 MiB for compute capability 9.0 and newer, and 4 MiB before.
WORKSPACE_BYTES = {True: 32 * 2**20, False: 4 * 2**20}

# enumerations of cublas_api.h and library_types.h
_OPERATIONS = {False: 0, True: 1}  # CUBLAS_OP_N, CUBLAS_OP_T
_REAL_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}  # CUDA_R_32F, _64F, _16F, _16BF
_COMPUTE_32F, _COMPUTE_64F, _COMPUTE_32F_FAST_16BF, _COMPUTE_32F_FAST_TF32 = 68, 70, 75, 77
_GEMM_DEFAULT = -1
# partial sums of split-K products are added in the compute type, not in float16
_DISALLOW_REDUCED_PRECISION_REDUCTION = 16

_INT, _POINTER = ctypes.c_int, ctypes.c_void_p
#: Result and parameters of each function that is called, as cublas_api.h declares them.
PROTOTYPES: dict[str, tuple[Any, tuple[Any, ...]]] = {
    "cublasCreate_v2": (_INT, (_POINTER,)),
    "cublasDestroy_v2": (_INT, (_POINTER,)),
    "cublasSetStream_v2": (_INT, (_POINTER, _POINTER)),
    "cublasSetWorkspace_v2": (_INT, (_POINTER, _POINTER, ctypes.c_size_t)),
    "cublasSetMathMode": (_INT, (_POINTER, _INT)),
    "cublasGetStatusName": (ctypes.c_char_p, (_INT,)),
    "cublasGemmEx": (
        _INT,
        (
            *(_POINTER, _INT, _INT, _INT, _INT, _INT, _POINTER),  # handle, operations, m, n, k, alpha
            *(_POINTER, _INT, _INT, _POINTER, _INT, _INT),  # A, type, leading dimension; B
            *(_POINTER, _POINTER, _INT, _INT, _INT, _INT),  # beta; C, type, leading dimension; sums' type, algorithm
        ),
    ),
}

# 1 and 0 in the compute type, by whether that is float64
_SCALARS = {False: (ctypes.c_float(1), ctypes.c_float(0)), True: (ctypes.c_double(1), ctypes.c_double(0))}
_local = threading.local()


class CublasError(LaunchError):
    """A call of cuBLAS that failed; the message holds the function and cuBLAS' name of the status."""


def _open() -> Any:
    """Load the library that CuPy calls; raise ImportError or OSError if it is missing."""
    import cupy

    # attribute access makes CuPy's package find and load the library, in Python packages as well; importing the module
    # by name would find it only where the system's loader looks
    import_module("cupy_backends.cuda.libs").cublas  # noqa: B018
    return ctypes.CDLL(f"libcublas.so.{cupy.cuda.runtime.runtimeGetVersion() // 1000}")


@cache
def library() -> Any:
    """Return cuBLAS with the types of its functions declared, loaded at the first call.

    Returns
    -------
    ctypes.CDLL or None
        None if it cannot be loaded or lacks a function, which is logged once; CuPy then computes the products.
    """
    try:
        cublas = _open()
        for name, (result, parameters) in PROTOTYPES.items():
            function = getattr(cublas, name)
            function.restype, function.argtypes = result, parameters
    except (ImportError, OSError, AttributeError) as error:
        logger.info("cuBLAS cannot be called directly (%s): CuPy computes the matrix products", error)
        return None
    return cublas


def forget() -> None:
    """Clear the cached library and this thread's handles (for tests, which change the device)."""
    library.cache_clear()
    _local.__dict__.clear()


class _Handle:
    """A cuBLAS handle of one thread on one device."""

    def __init__(self, cublas: Any) -> None:
        self._cublas = cublas
        self._bound: tuple[int, Any] | None = None
        capability = device_limits().compute_capability
        self._workspace = (WORKSPACE_BYTES[capability >= (9, 0)],)
        # read once, as CuPy does
        tf32 = int(os.environ.get("CUPY_TF32", "0")) > 0 and capability >= (8, 0)
        compute_types = dict.fromkeys(_REAL_TYPES, _COMPUTE_32F)
        compute_types |= {"float64": _COMPUTE_64F, "float32": _COMPUTE_32F_FAST_TF32 if tf32 else _COMPUTE_32F}
        #: By dtype: its cudaDataType, its compute type, and the addresses of 1 and 0 in the compute type.
        self._types = {
            name: (_REAL_TYPES[name], compute, *map(ctypes.addressof, _SCALARS[name == "float64"]))
            for name, compute in compute_types.items()
        }
        #: Compute type of float32 products whose factors may be rounded to bfloat16.
        self._rounding = _COMPUTE_32F_FAST_16BF if capability >= (8, 0) else compute_types["float32"]
        pointer = ctypes.c_void_p()
        self._check("cublasCreate_v2", cublas.cublasCreate_v2(ctypes.addressof(pointer)))
        self.pointer = pointer.value
        self._check("cublasSetMathMode", cublas.cublasSetMathMode(self.pointer, _DISALLOW_REDUCED_PRECISION_REDUCTION))

    def __del__(self) -> None:
        if getattr(self, "pointer", None) and not sys.is_finalizing():
            self._cublas.cublasDestroy_v2(self.pointer)

    def bind(self) -> None:
        """Set the handle's stream to the current one, and its memory to that of the stream's workspace."""
        import cupy

        stream = cupy.cuda.get_current_stream().ptr
        memory = workspace().take("cuBLAS", self._workspace, np.uint8)
        if self._bound is not None and self._bound[0] == stream and self._bound[1] is memory:
            return
        self._bound = None  # if one of the calls fails, the next product sets both again
        self._check("cublasSetStream_v2", self._cublas.cublasSetStream_v2(self.pointer, stream))
        # setting a stream resets the workspace
        status = self._cublas.cublasSetWorkspace_v2(self.pointer, memory.data.ptr, memory.nbytes)
        self._check("cublasSetWorkspace_v2", status)
        self._bound = stream, memory

    def multiply(self, a: Any, b: Any, out: Any, call: _Call, precision: Precision) -> None:
        """Compute a product as `_call` describes it."""
        real, compute, one, zero = self._types[call.dtype]
        if precision == "bf16" and call.dtype == "float32":
            compute = self._rounding
        first, second = (a, b) if call.transposed else (b, a)
        status = self._cublas.cublasGemmEx(
            self.pointer,
            *call.operations_and_sizes,
            one,
            first.data.ptr,
            real,
            call.leading[0],
            second.data.ptr,
            real,
            call.leading[1],
            zero,
            out.data.ptr,
            real,
            call.leading[2],
            compute,
            _GEMM_DEFAULT,
        )
        if status:
            self._check(f"cublasGemmEx ({a.shape} by {b.shape}, {call.dtype})", status)

    def _check(self, call: str, status: int) -> None:
        if status:
            name = self._cublas.cublasGetStatusName(status)
            text = name.decode() if name else f"status {status}"
            raise CublasError(
                f"{call} failed: {text}. If the device is out of memory, use a smaller batch. "
                "CAPGPU_KERNELS=reference computes by CuPy's own calls."
            )


class _Call(NamedTuple):
    """Arguments of cublasGemmEx for a product, without addresses; the factors are b^T and a^T, or a and b."""

    transposed: bool  # out is column-major: cuBLAS computes a b, not b^T a^T
    operations_and_sizes: tuple[int, int, int, int, int]  # operations of both factors; m, n and k
    leading: tuple[int, int, int]
    dtype: str
    copies: bool  # a factor must be copied first
    terms: int
    elements: int  # of the result


@lru_cache(maxsize=4096)
def _call(
    a_shape: tuple[int, int],
    a_strides: tuple[int, int],
    b_shape: tuple[int, int],
    b_strides: tuple[int, int],
    out_shape: tuple[int, int],
    out_strides: tuple[int, int],
    dtype: Any,
) -> _Call:
    """Return the arguments of a product; cached by shapes, strides and dtype."""
    (rows, terms), columns, itemsize = a_shape, b_shape[1], dtype.itemsize
    out = _layout(out_shape, out_strides, itemsize)
    if b_shape[0] != terms or out_shape != (rows, columns) or (out is None and rows * columns):
        raise InvalidValueError(
            f"expected factors (m, k) and (k, n), and out (m, n) that is row-major or column-major, got shapes "
            f"{a_shape}, {b_shape} and {out_shape}, strides {out_strides} of out, {dtype}."
        )
    a, b = _layout(a_shape, a_strides, itemsize), _layout(b_shape, b_strides, itemsize)
    name, elements = dtype_name(dtype), rows * columns
    if out is None or a is None or b is None:
        return _Call(False, (0, 0, 0, 0, 0), (0, 0, 0), name, a is None or b is None, terms, elements)
    leading = b.leading, a.leading, out.leading
    if max(rows, columns, terms, *leading) >= 2**31:
        raise InvalidValueError(f"expected sizes below 2**31, got a product of {a_shape} by {b_shape}.")
    # row-major is transposed to cuBLAS
    if out.transposed:
        operations, leading = (
            (_OPERATIONS[not a.transposed], _OPERATIONS[not b.transposed]),
            (leading[1], leading[0], leading[2]),
        )
        sizes = rows, columns
    else:
        operations, sizes = (_OPERATIONS[b.transposed], _OPERATIONS[a.transposed]), (columns, rows)
    return _Call(out.transposed, (*operations, *sizes, terms), leading, name, False, terms, elements)


class _Layout(NamedTuple):
    """The memory layout of a matrix: row-major, or column-major if `transposed`, with leading dimension `leading`."""

    transposed: bool
    leading: int


def _layout(shape: tuple[int, int], strides: tuple[int, int], itemsize: int) -> _Layout | None:
    """Return the layout of a matrix, or None if it is neither row-major nor column-major."""
    for transposed in (False, True):
        (lines, length), (outer_stride, inner_stride) = (shape[::-1], strides[::-1]) if transposed else (shape, strides)
        # the stride of an axis with one element is arbitrary
        rows_disjoint = lines == 1 or (outer_stride >= length * itemsize and outer_stride % itemsize == 0)
        if rows_disjoint and (length == 1 or inner_stride == itemsize):
            return _Layout(transposed, length if lines == 1 else outer_stride // itemsize)
    return None


def multiply(cublas: Any, a: Any, b: Any, out: Any, precision: Precision = "float32") -> None:
    """Multiply two matrices on the current stream, ``out = a b``.

    Parameters
    ----------
    cublas : ctypes.CDLL
        From `library`.
    a, b : cupy.ndarray, shape (m, k) and (k, n)
        The factors, of one dtype: float16, bfloat16, float32 or float64. They, or their transposes, are row-major,
        perhaps with gaps between the rows; others are copied first.
    out : cupy.ndarray, shape (m, n)
        Gets the result; it, or its transpose, is row-major, perhaps with gaps. It must not overlap the factors.
    precision : {"float32", "bf16"}
        Whether factors of float32 may be rounded to bfloat16.

    Raises
    ------
    CublasError
        If cuBLAS returns an error.
    LaunchError
        In a process forked from one that had used the device.
    ValueError
        If shapes do not match.
    """
    import cupy

    call = _call(a.shape, a.strides, b.shape, b.strides, out.shape, out.strides, out.dtype)
    if call.elements == 0:
        return
    if call.terms == 0:
        out.fill(0)
        return
    if call.copies:
        a, b = cupy.ascontiguousarray(a), cupy.ascontiguousarray(b)
        call = _call(a.shape, a.strides, b.shape, b.strides, out.shape, out.strides, out.dtype)
    refuse_fork()  # a child process has its parent's handles, which are invalid there
    device = cupy.cuda.runtime.getDevice()
    handles: dict[int, _Handle] = _local.__dict__.setdefault("handles", {})
    handle = handles.get(device)
    if handle is None:
        handle = handles[device] = _Handle(cublas)
    handle.bind()
    handle.multiply(a, b, out, call, precision)
