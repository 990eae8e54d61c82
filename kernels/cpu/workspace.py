"""Scratch arrays that outlive a call: a fresh large array costs as much to touch as to compute.

Each thread has its own, so that calls from several threads do not meet. Nothing that a caller keeps lives here.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

__all__ = ["scratch"]

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
