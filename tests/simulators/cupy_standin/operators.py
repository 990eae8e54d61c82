"""The operators of ``cupy.ndarray``: device arrays and scalars only."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import bfloat16
from .array import ndarray, operand, to_device, wrap
from .calls import quietly
from .state import refuse_in_capture

_Method = Callable[..., Any]

ARITHMETIC: dict[str, np.ufunc] = {
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "truediv": np.true_divide,
    "floordiv": np.floor_divide,
    "mod": np.remainder,
    "pow": np.power,
    "lshift": np.left_shift,
    "rshift": np.right_shift,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}
COMPARISONS: dict[str, np.ufunc] = {
    "lt": np.less,
    "le": np.less_equal,
    "eq": np.equal,
    "ne": np.not_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
}
PAIRED: dict[str, np.ufunc] = {"matmul": np.matmul, "divmod": np.divmod}  # without an in-place form
UNARY: dict[str, np.ufunc] = {"neg": np.negative, "pos": np.positive, "abs": np.absolute, "invert": np.invert}


def _computed(ufunc: np.ufunc, *operands: Any) -> Any:
    if ufunc in PAIRED.values() and bfloat16.holds_bfloat16(operands):
        return to_device(quietly(bfloat16.computed, ufunc.__name__, ufunc, operands, {}))
    return to_device(quietly(ufunc, *operands))


def _forward(ufunc: np.ufunc) -> _Method:
    def method(self: ndarray, other: Any) -> Any:
        return _computed(ufunc, self._host, operand(other))

    return method


def _reflected(ufunc: np.ufunc) -> _Method:
    def method(self: ndarray, other: Any) -> Any:
        return _computed(ufunc, operand(other), self._host)

    return method


def _in_place(ufunc: np.ufunc) -> _Method:
    def method(self: ndarray, other: Any) -> ndarray:
        refuse_in_capture(f"an array's in-place {ufunc.__name__}")
        quietly(ufunc, self._host, operand(other), out=self._host)
        return self

    return method


def _unary(ufunc: np.ufunc) -> _Method:
    def method(self: ndarray) -> Any:
        return to_device(quietly(ufunc, self._host))

    return method


def _equality(ufunc: np.ufunc, without_value: bool) -> _Method:
    def method(self: ndarray, other: Any) -> Any:
        if other is None:
            return wrap(np.full(self.shape, without_value))
        return to_device(quietly(ufunc, self._host, operand(other)))

    return method


def attach_operators() -> None:
    """Give `ndarray` its operators."""
    for name, ufunc in ARITHMETIC.items():
        setattr(ndarray, f"__{name}__", _forward(ufunc))
        setattr(ndarray, f"__r{name}__", _reflected(ufunc))
        setattr(ndarray, f"__i{name}__", _in_place(ufunc))
    for name, ufunc in PAIRED.items():
        setattr(ndarray, f"__{name}__", _forward(ufunc))
        setattr(ndarray, f"__r{name}__", _reflected(ufunc))
    for name, ufunc in COMPARISONS.items():
        setattr(ndarray, f"__{name}__", _forward(ufunc))
    for name, ufunc in UNARY.items():
        setattr(ndarray, f"__{name}__", _unary(ufunc))
    ndarray.__eq__ = _equality(np.equal, False)  # type: ignore[method-assign]
    ndarray.__ne__ = _equality(np.not_equal, True)  # type: ignore[method-assign]
