"""New arrays on the device, and the explicit transfers between host and device."""

from __future__ import annotations

from typing import Any

import numpy as np

from .array import SCALARS, ndarray, supported, wrap
from .calls import to_host
from .errors import ensure_usable
from .memory import poison, reserve
from .transfers import count_upload


def _sequence_of_arrays(obj: Any) -> bool:
    """Whether a nested sequence holds device arrays; raise where it mixes them with anything else."""
    if type(obj) not in (list, tuple) or not obj:
        return False
    kinds = {type(entry) is ndarray or _sequence_of_arrays(entry) for entry in obj}
    if kinds == {True, False}:
        raise TypeError(
            "Implicit conversion to a NumPy array is not allowed. "
            "Please use `.get()` to construct a NumPy array explicitly."
        )
    return True in kinds


def array(
    obj: Any,
    dtype: Any = None,
    copy: bool | None = True,
    order: Any = "K",
    subok: bool = False,
    ndmin: int = 0,
    *,
    blocking: bool = False,
) -> ndarray:
    """Create an array on the device from a device array, a host array, or nested sequences and scalars."""
    if subok:
        raise NotImplementedError
    ensure_usable()
    if dtype is not None:
        dtype = supported(np.dtype(dtype))
    order = order or "K"
    if type(obj) is ndarray:
        host = np.array(obj._host, dtype=dtype, copy=copy, order=order, ndmin=ndmin)
        return obj if host is obj._host else wrap(host)
    if _sequence_of_arrays(obj):
        return wrap(np.array(to_host(obj), dtype=dtype, ndmin=ndmin))
    if copy is False:
        raise ValueError("Unable to avoid copy while creating an array as requested.")
    host = np.array(obj, dtype=dtype, copy=True, order=order, ndmin=ndmin)
    supported(host.dtype)
    count_upload(host)
    return wrap(host)


def asarray(
    a: Any, dtype: Any = None, order: Any = None, *, copy: bool | None = None, blocking: bool = False
) -> ndarray:
    """Return `a` as an array on the device; a device array of the same dtype is returned as it is."""
    return array(a, dtype, copy, order, blocking=blocking)


def ascontiguousarray(a: ndarray, dtype: Any = None) -> ndarray:
    """Return a contiguous device array."""
    _only_device(a)
    host = np.ascontiguousarray(a._host, dtype)
    return a if host is a._host else wrap(host)


def asfortranarray(a: ndarray, dtype: Any = None) -> ndarray:
    """Return a device array in column-major order."""
    _only_device(a)
    host = np.asfortranarray(a._host, dtype)
    return a if host is a._host else wrap(host)


def copy(a: ndarray, order: Any = "K") -> ndarray:
    """Return a copy of a device array."""
    _only_device(a)
    return a.copy(order)


def asnumpy(a: Any, stream: Any = None, order: Any = "C", out: Any = None, *, blocking: bool = True) -> np.ndarray:
    """Return an array on the host."""
    if type(a) is ndarray:
        return a.get(stream, order, out, blocking)
    return np.asarray(a, order=order)


def empty(shape: Any, dtype: Any = float, order: Any = "C") -> ndarray:
    """Return an array that nobody has written: NaN, or the largest integer."""
    return ndarray(shape, dtype, order=order)


def empty_like(
    prototype: ndarray, dtype: Any = None, order: Any = "K", subok: None = None, shape: Any = None
) -> ndarray:
    """Return an array like another that nobody has written: NaN, or the largest integer."""
    _only_device(prototype)
    reserve(prototype.shape if shape is None else shape, prototype.dtype if dtype is None else dtype)
    return wrap(poison(np.empty_like(prototype._host, dtype, order, shape=shape)))


def get_array_module(*args: Any) -> Any:
    """Return the module ``cupy`` if any argument is a device array, else NumPy."""
    import sys

    return sys.modules["cupy"] if any(type(value) is ndarray for value in args) else np


def _only_device(a: Any) -> None:
    if type(a) is not ndarray:
        hint = "scalar" if isinstance(a, SCALARS) else "host object"
        raise TypeError(f"Argument 'a' has incorrect type (expected cupy.ndarray, got {type(a)}, a {hint})")
