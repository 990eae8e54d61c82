"""Reading and writing elements: the keys that CuPy accepts, and the two cases that are undefined on a device."""

from __future__ import annotations

from typing import Any

import numpy as np

from .state import UndefinedOnDeviceError, refuse_in_capture, synchronised


def _host_key(key: Any, array_class: type) -> tuple[tuple[Any, ...], bool, bool]:
    """Return the key for NumPy, and whether it contains masks and arrays of integers."""
    entries = key if type(key) is tuple else (key,)
    host_entries = []
    masks = integers = False
    for entry in entries:
        type_of_entry = type(entry)
        if type_of_entry is array_class:
            entry = entry._host
            if entry.dtype.kind == "b":
                masks = True
            elif entry.dtype.kind in "iu":
                integers = True
            else:
                raise IndexError(
                    f"arrays used as indices must be of integer or boolean type. (actual: {entry.dtype.type})"
                )
        elif isinstance(entry, np.ndarray | list | tuple):
            raise TypeError(
                f"Unsupported type {type_of_entry} as an index of a cupy.ndarray: CuPy would copy it to the device "
                "unasked; move it with cupy.asarray()"
            )
        host_entries.append(entry)
    return tuple(host_entries), masks, integers


def _fault(error: IndexError) -> BaseException:
    if "out of bounds" in str(error):
        return UndefinedOnDeviceError(f"{error}; a device wraps such an index around in silence")
    return error


def select(host: np.ndarray, key: Any, array_class: type) -> Any:
    """Return the selected elements: a view for integers and slices, even of a single element, otherwise a copy."""
    entries, masks, integers = _host_key(key, array_class)
    if not (masks or integers):
        return host[entries if any(entry is Ellipsis for entry in entries) else (*entries, ...)]
    if masks:
        synchronised("indexing a cupy.ndarray with a mask")
    try:
        return host[entries]
    except IndexError as error:
        raise _fault(error) from error


def assign(host: np.ndarray, key: Any, value: Any, array_class: type) -> None:
    """Write a scalar or the memory of a device array to the selected elements."""
    refuse_in_capture("an assignment to elements")
    entries, masks, integers = _host_key(key, array_class)
    if isinstance(value, np.ndarray) and value.size > 1:
        if integers and not masks:
            _refuse_duplicates(host, entries)
        elif not masks:
            _refuse_overlap(host[entries], value)
    try:
        with np.errstate(all="ignore"):
            host[entries] = value
    except IndexError as error:
        raise (_fault(error) if integers else error) from error


def _refuse_duplicates(host: np.ndarray, entries: tuple[Any, ...]) -> None:
    """Raise if an element is written twice."""
    consumed = sum(entry is not None and entry is not Ellipsis for entry in entries)
    axis = 0
    arrays, sizes = [], []
    for entry in entries:
        if entry is Ellipsis:
            axis += host.ndim - consumed
        elif entry is not None:
            if isinstance(entry, np.ndarray):
                arrays.append(entry)
                sizes.append(host.shape[axis])
            axis += 1
    flat = np.zeros((), dtype=np.int64)
    for array, size in zip(arrays, sizes, strict=True):
        flat = flat * size + np.where(array < 0, array + size, array)
    if np.unique(flat).size != flat.size:
        raise UndefinedOnDeviceError(
            "an assignment writes some element twice (duplicate indices): which value stays is undefined on "
            "a device; add duplicates up first, in a fixed order"
        )


def _refuse_overlap(target: np.ndarray, source: np.ndarray) -> None:
    """Raise if CuPy would use one memory copy between overlapping regions."""
    if (
        target.flags.c_contiguous
        and target.shape == source.shape
        and target.strides == source.strides
        and target.dtype == source.dtype
        and np.may_share_memory(target, source)
        and target.__array_interface__["data"] != source.__array_interface__["data"]
    ):
        raise UndefinedOnDeviceError(
            "an assignment copies memory onto an overlapping part of itself (x[1:] = x[:-1]), which is "
            "undefined on a device; copy the right-hand side first"
        )
