"""Scratch arrays that outlive a call: a fresh large array costs as much to touch as to compute.

Each thread has its own, so that calls from several threads do not meet. Nothing that a caller keeps lives here.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

__all__ = ["contiguous", "scratch"]

_local = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return an uninitialised array, the same memory at each call by the same name.

    Parameters
    ----------
    name : str
        Whose scratch; two arrays in use at once need two names.
    shape : tuple of int
        Shape wanted.
    dtype : dtype
        Element type.

    Returns
    -------
    numpy.ndarray
        C-contiguous, aligned to a cache line.
    """
    dtype = np.dtype(dtype)
    count = 1
    for extent in shape:
        count *= extent
    size = count * dtype.itemsize
    buffers: dict[str, Any] = _local.__dict__
    buffer = buffers.get(name)
    if buffer is None or buffer.size < size:
        raw = np.empty(size + 64, dtype=np.uint8)
        offset = -raw.ctypes.data % 64
        buffer = buffers[name] = raw[offset : offset + size]
    return buffer[:size].view(dtype).reshape(shape)


def contiguous(array: Any, dtype: Any = None) -> Any:
    """Return an array as the kernels take it that only read it: C-contiguous, aligned, and marked as writable.

    Numba compiles a function again for arrays that are marked as read-only (memory-mapped files, weights from
    safetensors). An array without that mark is returned as it is, others as a view of the same memory.

    Parameters
    ----------
    array : array_like
        What a kernel reads. It must not write into it: the memory may be a file that is mapped for reading.
    dtype : dtype, optional
        Element type wanted; by default the array's own.

    Returns
    -------
    numpy.ndarray
        The array itself where it is fit, else a view, or a copy where its layout or dtype is another.
    """
    if dtype is None and type(array) is np.ndarray and array.flags.carray:
        return array  # contiguous, aligned and writable: by far the most frequent case
    out = np.ascontiguousarray(array, dtype)
    if out.flags.behaved:  # aligned and writable
        return out
    return np.asarray(_Writable(out)) if out.flags.aligned else out.copy()


class _Writable:
    """Read-only memory as NumPy takes it from other libraries, without the mark; keeps the array that owns it."""

    def __init__(self, array: Any) -> None:
        self._array = array
        described = array.__array_interface__
        self.__array_interface__ = {**described, "data": (described["data"][0], False)}
