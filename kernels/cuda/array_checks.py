"""Array handling before a launch: device checks, memory layout, allocation."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

import numpy as np

from capgpu.errors import CapgpuError, InvalidValueError

__all__ = [
    "NULL",
    "DeviceMemoryError",
    "allocate",
    "allocating_by",
    "check_device",
    "contiguous",
    "dtype_name",
    "empty",
    "indices",
    "is_allocating_anew",
    "operand",
    "pointers",
    "sum_dtype",
]

_local = threading.local()

#: Null pointer, passed for an optional array that is None: versions of CuPy differ in what they pass for None.
NULL = np.uint64(0)


class DeviceMemoryError(CapgpuError, MemoryError):
    """The device has too little memory for an array; the message names the array and its size."""


def check_device(**arrays: Any) -> None:
    """Validate that arrays are on the current device; elsewhere their addresses refer to other memory.

    Parameters
    ----------
    **arrays : array, sequence of arrays, mapping of str to array, or None
        Arrays by the name for the error message; arrays of a group are named by position or key as well.

    Raises
    ------
    ValueError
        Naming the array, its device and the current one.
    """
    import cupy

    runtime = cupy.cuda.runtime
    if runtime.getDeviceCount() == 1:
        return  # a training step would check dozens of arrays for nothing
    current = runtime.getDevice()
    for name, array in _named(arrays):
        if array.device.id != current:
            raise InvalidValueError(
                f"{name} is on device {array.device.id}, but the current device is {current}. Work inside "
                f"'with cupy.cuda.Device({array.device.id}):', or move it with cupy.asarray inside the other."
            )


def _named(arrays: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield each array of `check_device`'s arguments with its name."""
    for name, value in arrays.items():
        if isinstance(value, Mapping):
            yield from ((f"{name}[{key!r}]", array) for key, array in value.items())
        elif isinstance(value, Sequence):
            yield from ((f"{name} {index}", array) for index, array in enumerate(value))
        elif value is not None:
            yield name, value


def contiguous(array: Any) -> Any:
    """Return a C-contiguous array: the array itself or a copy."""
    if array.flags.c_contiguous:
        return array
    import cupy

    return cupy.ascontiguousarray(array)


def sum_dtype(dtype: Any) -> Any:
    """Return the dtype that the kernels keep sums in: float64 for float64, float32 for all others."""
    return np.dtype(np.float64 if dtype.char == "d" else np.float32)


def indices(array: Any) -> Any:
    """Return integers as the kernels read them: int32, C-contiguous."""
    return contiguous(array if array.dtype.char == "i" else array.astype(np.int32))


def operand(array: Any) -> Any:
    """Return an optional array as kernels read it: integers as `indices`, others C-contiguous."""
    if array is None:
        return None
    return indices(array) if array.dtype.kind in "iu" else contiguous(array)


def pointers(*arrays: Any) -> list[Any]:
    """Return optional arrays as arguments of a launch: `NULL` for None."""
    return [NULL if array is None else array for array in arrays]


@cache
def dtype_name(dtype: Any) -> str:
    """Return the name of a dtype; cached, since NumPy composes it at each access."""
    return str(dtype.name)


def empty(shape: tuple[int, ...], dtype: Any, purpose: str) -> Any:
    """Return an uninitialized array for a result: a new one, or, inside `allocating_by`, that of the given function.

    Parameters
    ----------
    shape : tuple of int
        Shape.
    dtype : dtype
        Element type.
    purpose : str
        What the array is for, for the error message.

    Returns
    -------
    cupy.ndarray
        On the current device.

    Raises
    ------
    DeviceMemoryError
        If the device has too little memory; nothing has changed then.
    """
    override: Callable[[tuple[int, ...], Any, str], Any] | None = getattr(_local, "allocate", None)
    return allocate(shape, dtype, purpose) if override is None else override(shape, dtype, purpose)


def is_allocating_anew() -> bool:
    """Return whether `empty` allocates new arrays in this thread."""
    return getattr(_local, "allocate", None) is None


@contextmanager
def allocating_by(function: Callable[[tuple[int, ...], Any, str], Any]) -> Iterator[None]:
    """Make `empty` call a function, in this thread, inside a ``with`` block.

    Parameters
    ----------
    function : callable
        (shape, dtype, purpose) -> array.
    """
    previous, _local.allocate = getattr(_local, "allocate", None), function
    try:
        yield
    finally:
        _local.allocate = previous


def allocate(shape: tuple[int, ...], dtype: Any, purpose: str) -> Any:
    """Allocate an uninitialized array; parameters, result and errors as for `empty`."""
    import cupy

    try:
        return cupy.empty(shape, dtype)
    except cupy.cuda.memory.OutOfMemoryError as error:
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        free, total = cupy.cuda.runtime.memGetInfo()
        raise DeviceMemoryError(
            f"the device has too little memory for {purpose}: {size:,} bytes, shape {tuple(shape)}, {np.dtype(dtype)}. "
            f"It has {total:,} bytes, {free:,} of them free. Use a smaller batch, or delete arrays that are not "
            f"needed. CuPy: {error}"
        ) from error
