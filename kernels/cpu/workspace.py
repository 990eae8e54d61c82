"""Scratch arrays that outlive a call: a fresh large array costs as much to touch as to compute.

Each thread has its own. A signal handler or a finalizer may run kernels in the middle of a kernel's Python code, on the
same thread: memory that an array still refers to is not given out again, so that no result is overwritten.
"""

from __future__ import annotations

import threading
import weakref
from typing import Any

import numpy as np

__all__ = ["contiguous", "scratch"]

_local = threading.local()


def scratch(name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """Return an uninitialized array, in the memory of the last one of this name where nothing refers to that any more.

    Parameters
    ----------
    name : str
        Whose scratch; two arrays in use at once need two names, or the memory is new at each call.
    shape : tuple of int
        Shape wanted.
    dtype : dtype
        Element type.

    Returns
    -------
    numpy.ndarray
        C-contiguous, aligned to a cache line. The caller must keep this array, not only views of it, while it uses
        the memory.
    """
    dtype = np.dtype(dtype)
    count = 1
    for extent in shape:
        count *= extent
    size = count * dtype.itemsize
    entries: dict[str, Any] = _local.__dict__
    buffer, last = entries.get(name, (None, None))
    if buffer is None or buffer.size < size or last() is not None:
        raw = np.empty(size + 64, dtype=np.uint8)
        offset = -raw.ctypes.data % 64
        buffer = raw[offset : offset + size]
    array = buffer[:size].view(dtype).reshape(shape)
    # A call from a handler before this line may get the same memory: it ends before this one's caller writes to it.
    entries[name] = buffer, weakref.ref(array)
    return array


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
