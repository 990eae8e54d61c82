"""NumPy functions with CuPy's parameters, where their order, names or defaults differ."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .memory import reserve


def _positions(function: Callable[..., Any]) -> Callable[..., Any]:
    def adapted(a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        result = function(a, axis=axis, out=out, keepdims=keepdims)
        return result if dtype is None else result.astype(dtype)

    return adapted


def _check_kind(kind: Any) -> None:
    if kind is not None and kind != "stable":
        raise ValueError("kind can only be None or 'stable'")


def _sort(a: Any, axis: Any = -1, kind: Any = None) -> Any:
    _check_kind(kind)
    return np.sort(a, axis=axis, kind="stable")


def _argsort(a: Any, axis: Any = -1, kind: Any = None) -> Any:
    _check_kind(kind)
    return np.argsort(a, axis=axis, kind="stable")


def _sort_in_place(a: Any, axis: int = -1, kind: Any = None) -> None:
    _check_kind(kind)
    a.sort(axis=axis, kind="stable")


def _writable(view: np.ndarray, source: np.ndarray) -> np.ndarray:
    """Undo NumPy's write protection of diagonals, which CuPy does not have."""
    if np.may_share_memory(view, source) and source.flags.writeable:
        view.flags.writeable = True
    return view


def _diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return _writable(np.diagonal(a, offset, axis1, axis2), a)


def _diag(v: Any, k: int = 0) -> Any:
    return _writable(np.diag(v, k), v)


def _reshape(a: Any, newshape: Any, order: Any = "C", *, copy: bool | None = None) -> Any:
    # NumPy 2.0 has no `copy`
    out = np.reshape(np.array(a, copy=True) if copy else a, newshape, order=order)
    if copy is False and a.size and not np.may_share_memory(out, a):
        raise ValueError("Unable to avoid creating a copy while reshaping.")
    return out


def _put(a: Any, ind: Any, v: Any, mode: Any = "wrap") -> None:
    np.put(a, ind, v, mode=mode)


def _ravel_multi_index(multi_index: Any, dims: Any, mode: Any = "wrap", order: Any = "C") -> Any:
    return np.ravel_multi_index(multi_index, dims, mode, order)


def _unravel_index(indices: Any, dims: Any, order: Any = "C") -> Any:
    return np.unravel_index(indices, dims, order)


def _take_along_axis(a: Any, indices: Any, axis: Any) -> Any:
    return np.take_along_axis(a, indices, axis)


def _delete(arr: Any, indices: Any, axis: Any = None) -> Any:
    return np.delete(arr, indices, axis)


def _unpackbits(a: Any, axis: Any = None, bitorder: Any = "big") -> Any:
    return np.unpackbits(a, axis=axis, bitorder=bitorder)


def _zeros(shape: Any, dtype: Any = float, order: Any = "C") -> Any:
    reserve(shape, dtype)
    return np.zeros(shape, dtype, order)


def _ones(shape: Any, dtype: Any = float, order: Any = "C") -> Any:
    reserve(shape, dtype)
    return np.ones(shape, dtype, order)


def _full(shape: Any, fill_value: Any, dtype: Any = None, order: Any = "C") -> Any:
    reserve(shape, np.asarray(fill_value).dtype if dtype is None else dtype)
    return np.full(shape, fill_value, dtype, order)


FUNCTIONS: dict[str, Callable[..., Any]] = {
    "zeros": _zeros,
    "ones": _ones,
    "full": _full,
    "argmax": _positions(np.argmax),
    "argmin": _positions(np.argmin),
    "nanargmax": _positions(np.nanargmax),
    "nanargmin": _positions(np.nanargmin),
    "sort": _sort,
    "argsort": _argsort,
    "diagonal": _diagonal,
    "diag": _diag,
    "reshape": _reshape,
    "put": _put,
    "ravel_multi_index": _ravel_multi_index,
    "unravel_index": _unravel_index,
    "take_along_axis": _take_along_axis,
    "delete": _delete,
    "unpackbits": _unpackbits,
}


def _method_argmax(a: Any, axis: Any = None, out: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    return FUNCTIONS["argmax"](a, axis, dtype, out, keepdims)


def _method_argmin(a: Any, axis: Any = None, out: Any = None, dtype: Any = None, keepdims: bool = False) -> Any:
    return FUNCTIONS["argmin"](a, axis, dtype, out, keepdims)


METHODS: dict[str, Callable[..., Any]] = {
    "argmax": _method_argmax,
    "argmin": _method_argmin,
    "sort": _sort_in_place,
    "argsort": _argsort,
    "diagonal": _diagonal,
    "put": _put,
    "ptp": np.ptp,
}
