"""cuBLAS as a library of C functions, which operate on the stand-in device's memory.

The functions are called through `ctypes` like those of ``libcublas.so``, with addresses. Calls that cuBLAS refuses
return its status. Memory outside of device allocations is a fault.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import memory
from .state import STATE, UndefinedOnDeviceError

SUCCESS, NOT_INITIALIZED, ALLOC_FAILED, INVALID_VALUE = 0, 1, 3, 7
EXECUTION_FAILED, NOT_SUPPORTED = 13, 15
# C strings, kept alive
_NAMES = {
    status: ctypes.create_string_buffer(f"CUBLAS_STATUS_{name}".encode())
    for status, name in (
        (SUCCESS, "SUCCESS"),
        (NOT_INITIALIZED, "NOT_INITIALIZED"),
        (ALLOC_FAILED, "ALLOC_FAILED"),
        (INVALID_VALUE, "INVALID_VALUE"),
        (EXECUTION_FAILED, "EXECUTION_FAILED"),
        (NOT_SUPPORTED, "NOT_SUPPORTED"),
    )
}

# storage dtype by cudaDataType
_STORED = {0: np.float32, 1: np.float64, 2: np.float16, 14: np.uint16}
_BFLOAT16 = 14
_FAST_16BF, _TF32 = 75, 77
_COMPUTE = {68: np.float32, 70: np.float64, _FAST_16BF: np.float32, _TF32: np.float32}

_int, _void_p, _size_t = ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t
_TYPES = {
    "cublasCreate_v2": (_int, _void_p),
    "cublasDestroy_v2": (_int, _void_p),
    "cublasSetStream_v2": (_int, _void_p, _void_p),
    "cublasSetWorkspace_v2": (_int, _void_p, _void_p, _size_t),
    "cublasSetMathMode": (_int, _void_p, _int),
    "cublasGetStatusName": (_void_p, _int),
    "cublasGemmEx": (
        *(_int, _void_p, _int, _int, _int, _int, _int, _void_p, _void_p, _int, _int, _void_p, _int, _int),
        *(_void_p, _void_p, _int, _int, _int, _int),
    ),
}


@dataclass
class Context:
    """The state of a handle."""

    stream: int = 0
    workspace: tuple[int, int] = (0, 0)
    math_mode: int = 0


@dataclass(frozen=True)
class Gemm:
    """The arguments of one product."""

    operations: tuple[int, int]
    sizes: tuple[int, int, int]
    leading: tuple[int, int, int]
    types: tuple[int, int, int]
    compute: int
    stream: int
    workspace: tuple[int, int]


class Library:
    """The library; attributes are its C functions.

    Attributes
    ----------
    contexts : dict of int to Context
        State by handle; empty if all have been destroyed.
    products : list of Gemm
        All accepted products, in order.
    fails : dict of str to int
        Error status that a function returns, by its name.
    computes : bool
        False: products are checked but not computed.
    """

    def __init__(self) -> None:
        self.contexts: dict[int, Context] = {}
        self.products: list[Gemm] = []
        self.fails: dict[str, int] = {}
        self.computes = True
        self._made = 0
        for name, (result, *parameters) in _TYPES.items():
            setattr(self, name, ctypes.CFUNCTYPE(result, *parameters)(self._guarded(name)))

    def _guarded(self, name: str) -> Any:
        body = getattr(self, "_" + name.removesuffix("_v2").removeprefix("cublas"))

        def function(*arguments: Any) -> Any:
            return self.fails[name] if name in self.fails else body(*arguments)

        return function

    def _GetStatusName(self, status: int) -> int | None:
        return ctypes.addressof(_NAMES[status]) if status in _NAMES else None

    def _Create(self, handle_address: int) -> int:
        self._made += 0x100
        self.contexts[self._made] = Context()
        ctypes.c_void_p.from_address(handle_address).value = self._made
        return SUCCESS

    def _Destroy(self, handle: int) -> int:
        return NOT_INITIALIZED if self.contexts.pop(handle, None) is None else SUCCESS

    def _SetStream(self, handle: int, stream: int | None) -> int:
        context = self.contexts[handle]
        context.stream, context.workspace = stream or 0, (0, 0)  # resets the workspace to the library's own memory
        return SUCCESS

    def _SetWorkspace(self, handle: int, address: int, size: int) -> int:
        if address % 16 or not _allocated(address, size):
            return INVALID_VALUE
        self.contexts[handle].workspace = address, size
        return SUCCESS

    def _SetMathMode(self, handle: int, mode: int) -> int:
        self.contexts[handle].math_mode = mode
        return SUCCESS

    def _GemmEx(
        self,
        handle: int,
        transa: int,
        transb: int,
        m: int,
        n: int,
        k: int,
        alpha: int,
        a: int,
        type_a: int,
        lda: int,
        b: int,
        type_b: int,
        ldb: int,
        beta: int,
        c: int,
        type_c: int,
        ldc: int,
        compute: int,
        algorithm: int,
    ) -> int:
        context = self.contexts[handle]
        shape_a, shape_b = ((m, k) if transa == 0 else (k, m)), ((k, n) if transb == 0 else (n, k))
        if {transa, transb} - {0, 1} or min(m, n, k) < 0 or algorithm != -1:
            return INVALID_VALUE
        if lda < max(1, shape_a[0]) or ldb < max(1, shape_b[0]) or ldc < max(1, m):
            return INVALID_VALUE
        is_double = type_c == 1
        if len({type_a, type_b, type_c}) > 1 or type_c not in _STORED or compute not in _COMPUTE:
            return NOT_SUPPORTED
        if is_double != (compute == 70) or (compute in (_FAST_16BF, _TF32) and type_c != 0):
            return NOT_SUPPORTED
        scalar = ctypes.c_double if is_double else ctypes.c_float
        # scalars are read now, matrices when the product is computed
        alpha_value, beta_value = scalar.from_address(alpha).value, scalar.from_address(beta).value
        matrices = [(a, shape_a, lda), (b, shape_b, ldb), (c, (m, n), ldc)]
        itemsize = np.dtype(_STORED[type_c]).itemsize
        if not _all_allocated(matrices, itemsize):
            return EXECUTION_FAILED
        self.products.append(
            Gemm((transa, transb), (m, n, k), (lda, ldb, ldc), (type_a, type_b, type_c), compute, context.stream,
                 context.workspace)
        )  # fmt: skip

        def compute_product() -> None:
            if not self.computes:
                return
            if not _all_allocated(matrices, itemsize):
                raise UndefinedOnDeviceError("a graph was launched whose memory has been freed")
            left, right, out = (_matrix(*matrix, type_c) for matrix in matrices)
            left, right = (_numbers(alpha_value, type_c).astype(_COMPUTE[compute]) for alpha_value in (left, right))
            if compute == _FAST_16BF:
                left, right = (_numbers(_stored(alpha_value, _BFLOAT16), _BFLOAT16) for alpha_value in (left, right))
            product = alpha_value * ((left.T if transa else left) @ (right.T if transb else right))
            if beta_value:
                product += beta_value * _numbers(out, type_c)
            out[...] = _stored(product, type_c)

        graph = STATE.capture
        if graph is not None and graph._stream == context.stream:
            if context.workspace == (0, 0):
                return NOT_SUPPORTED  # a graph would refer to the library's own memory
            graph._add(compute_product)
        else:
            with np.errstate(all="ignore"):
                compute_product()
        return SUCCESS


def _all_allocated(matrices: list[tuple[int, tuple[int, int], int]], itemsize: int) -> bool:
    return all(_allocated(at, ((columns - 1) * ld + rows) * itemsize) for at, (rows, columns), ld in matrices)


def _allocated(address: int, size: int) -> bool:
    """Return whether a range of bytes lies within one allocation."""
    for block in memory.known_blocks():
        start = block.__array_interface__["data"][0]
        if start <= address and address + size <= start + block.nbytes:
            return True
    return False


def _matrix(address: int, shape: tuple[int, int], leading: int, data_type: int) -> np.ndarray:
    """Return a view of column-major memory as an array of shape (rows, columns)."""
    (rows, columns), stored = shape, np.dtype(_STORED[data_type])
    buffer = (ctypes.c_char * (((columns - 1) * leading + rows) * stored.itemsize)).from_address(address)
    return np.ndarray(shape, stored, buffer, strides=(stored.itemsize, leading * stored.itemsize))


def _numbers(stored: np.ndarray, data_type: int) -> np.ndarray:
    return (stored.astype(np.uint32) << 16).view(np.float32) if data_type == _BFLOAT16 else stored


def _stored(numbers: np.ndarray, data_type: int) -> np.ndarray:
    if data_type != _BFLOAT16:
        return numbers.astype(_STORED[data_type])
    bits = np.ascontiguousarray(numbers, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
