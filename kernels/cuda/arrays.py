"""What launchers do with arrays before a launch: where they live, how they lie in memory, and new ones."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np

__all__ = ["NULL", "DeviceMemoryError", "check_device", "contiguous", "empty", "indices"]

#: What a kernel gets in the place of an array that is not given. CuPy's None is no pointer at all.
NULL = np.uint64(0)


class DeviceMemoryError(MemoryError):
    """The device has no room for an array; the message says for which, and how large it is."""


def check_device(**arrays: Any) -> None:
    """Refuse arrays that do not live on the current device: a kernel would read what is at their addresses there.

    Parameters
    ----------
    **arrays : array or None
        Each by the name that the error gives it.

    Raises
    ------
    ValueError
        Naming the array, its device and the current one.
    """
    current = import_module("cupy").cuda.runtime.getDevice()
    for name, array in arrays.items():
        if array is not None and array.device.id != current:
            raise ValueError(
                f"{name} lives on device {array.device.id}, but the current device is {current}. Work inside "
                f"'with cupy.cuda.Device({array.device.id}):', or move it with cupy.asarray inside the other."
            )


def contiguous(array: Any) -> Any:
    """Return an array laid out row by row without gaps: itself, or a copy."""
    return array if array.flags.c_contiguous else import_module("cupy").ascontiguousarray(array)


def indices(array: Any) -> Any:
    """Return whole numbers as the kernels read them: 32 bits, without gaps."""
    return contiguous(array if array.dtype.char == "i" else array.astype(np.int32))


def empty(shape: tuple[int, ...], dtype: Any, what: str) -> Any:
    """Allocate an array that will be overwritten.

    Parameters
    ----------
    shape : tuple of int
        Its shape.
    dtype : dtype
        Its element type.
    what : str
        What it is for, for the error.

    Returns
    -------
    cupy.ndarray
        Uninitialised, on the current device.

    Raises
    ------
    DeviceMemoryError
        Where there is no room; nothing has changed then.
    """
    cupy = import_module("cupy")
    try:
        return cupy.empty(shape, dtype)
    except cupy.cuda.memory.OutOfMemoryError as error:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        free, total = cupy.cuda.runtime.memGetInfo()
        raise DeviceMemoryError(
            f"the device has no room for {what}: {size:,} bytes, shape {tuple(shape)}, {np.dtype(dtype)}. It has "
            f"{total:,} bytes, {free:,} of them free. Use a smaller batch, or free what nothing needs any more. "
            f"CuPy's words: {error}"
        ) from error
