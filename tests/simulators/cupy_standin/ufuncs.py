"""``cupy.ufunc``: elementwise functions, with the few methods that CuPy's have."""

from __future__ import annotations

from typing import Any

import numpy as np

from .array import SCALARS, ndarray, operand, to_device
from .calls import quietly
from .indexing import _host_key
from .state import STATE, refuse_in_capture

_KEYWORDS = {"out", "dtype", "casting"}
_AT = ("add", "subtract", "maximum", "minimum", "bitwise_and", "bitwise_or", "bitwise_xor")


class ufunc:
    """An elementwise function on device arrays and scalars.

    CuPy's ufuncs take ``out``, ``dtype`` and ``casting`` and nothing else: no ``where``, no ``order``.
    """

    __module__ = "cupy"

    def __init__(self, name: str, host: np.ufunc) -> None:
        self.name = f"cupy_{host.__name__}"
        self.__name__ = name
        self.nin = host.nin
        self.nout = host.nout
        self.nargs = host.nin + host.nout
        self._host = host

    def __repr__(self) -> str:
        return f"<ufunc '{self.name}'>"

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if kwargs and not kwargs.keys() <= _KEYWORDS:
            raise TypeError(f"Wrong arguments {sorted(kwargs.keys() - _KEYWORDS)}")
        if not self.nin <= len(args) <= self.nargs:
            raise TypeError(
                f"Wrong number of arguments for {self.name!r}. It must be either {self.nin} or {self.nargs} "
                f"(with outputs), but given {len(args)}."
            )
        out = kwargs.pop("out", None)
        if len(args) > self.nin:
            if out is not None:
                raise ValueError("Cannot specify 'out' as both a positional and keyword argument")
            out = args[self.nin] if self.nout == 1 else args[self.nin :]
        refuse_in_capture(f"cupy.{self.__name__}()")
        inputs = [operand(value) for value in args[: self.nin]]
        if out is None:
            return to_device(quietly(self._host, *inputs, **kwargs))
        outputs = out if isinstance(out, tuple) else (out,)
        host_outputs = tuple(None if value is None else _output(value) for value in outputs)
        results = quietly(self._host, *inputs, out=host_outputs, **kwargs)
        if not isinstance(results, tuple):
            results = (results,)
        given_types = tuple(
            to_device(result) if value is None else value for value, result in zip(outputs, results, strict=True)
        )
        return given_types if self.nout > 1 else given_types[0]

    def outer(self, A: Any, B: Any, **kwargs: Any) -> Any:
        """Apply the function to all pairs."""
        return to_device(quietly(self._host.outer, operand(A), operand(B), **kwargs))

    def at(self, a: ndarray, indices: Any, b: Any = None) -> None:
        """Apply the function in place at the indices, duplicates included, by atomics."""
        if self._host.__name__ not in _AT:
            raise NotImplementedError(f"`{self.name}.at` is not supported yet")
        if a.dtype.kind == "f" and self._host.__name__ in ("add", "subtract"):
            STATE.counters.nondeterministic.append(f"{self.__name__}.at")
        refuse_in_capture(f"cupy.{self.__name__}.at()")
        entries, _, _ = _host_key(indices, ndarray)
        quietly(self._host.at, operand(a), entries if len(entries) > 1 else entries[0], operand(b))

    def reduce(self, array: ndarray, axis: Any = 0, dtype: Any = None, out: Any = None, keepdims: bool = False) -> Any:
        """Reduce along an axis; CuPy has it for sums and products."""
        method = {"add": "sum", "multiply": "prod"}.get(self._host.__name__)
        if method is None:
            raise NotImplementedError(f"`{self.name}.reduce` is not supported yet")
        return getattr(array, method)(axis, dtype, out, keepdims)

    def accumulate(self, array: ndarray, axis: Any = 0, dtype: Any = None, out: Any = None) -> Any:
        """Accumulate along an axis; CuPy has it for sums and products."""
        method = {"add": "cumsum", "multiply": "cumprod"}.get(self._host.__name__)
        if method is None:
            raise NotImplementedError(f"`{self.name}.accumulate` is not supported yet")
        return getattr(array, method)(axis, dtype, out)


def _output(value: Any) -> np.ndarray:
    if isinstance(value, SCALARS) or type(value) is not ndarray:
        raise TypeError(f"return arrays must be of ArrayType, not {type(value)}")
    return value._host
