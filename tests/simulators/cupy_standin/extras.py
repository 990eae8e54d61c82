"""``cupyx``: functions of CuPy that NumPy does not have."""

from __future__ import annotations

import contextlib
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .array import ndarray
from .ufuncs import ufunc

_SCATTERS = {"scatter_add": np.add, "scatter_max": np.maximum, "scatter_min": np.minimum}


def _scatter(name: str, host: np.ufunc) -> Callable[[ndarray, Any, Any], None]:
    function = ufunc(host.__name__, host)

    def scatter(a: ndarray, slices: Any, value: Any) -> None:
        function.at(a, slices, value)

    scatter.__name__ = name
    return scatter


@contextlib.contextmanager
def errstate(
    *,
    divide: None = None,
    over: None = None,
    under: None = None,
    invalid: None = None,
    linalg: str | None = None,
) -> Iterator[None]:
    """Accept CuPy's only argument, for linear algebra; its errors always raise here."""
    if any(value is not None for value in (divide, over, under, invalid)):
        raise NotImplementedError
    yield


FUNCTIONS: dict[str, Any] = {name: _scatter(name, host) for name, host in _SCATTERS.items()}
FUNCTIONS["errstate"] = errstate


def deprecated_method(name: str) -> Callable[[ndarray, Any, Any], None]:
    """Return the method of `ndarray` that does the same, with CuPy's warning."""
    function = FUNCTIONS[name]

    def method(self: ndarray, slices: Any, value: Any) -> None:
        host = _SCATTERS[name].__name__
        warnings.warn(
            f"`ndarray.{name}` is deprecated. Please use `cupy.{host}.at` instead.",
            DeprecationWarning,
            stacklevel=2,
        )
        function(self, slices, value)

    return method
