"""CuPy 14.2's behaviour for bfloat16 arrays, where it differs from NumPy's.

CuPy uses the first loop of a function to which the arguments can be cast, in the order float16, bfloat16, float32. Most
elementwise functions, sums, means and extremes have one for bfloat16; with a Python float, the float32 loop is used (as
in NumPy), as for functions without a bfloat16 loop. Products are summed in float32. Taken from ``ufunc.types`` and the
reductions of CuPy 14.2.0 with ml_dtypes 0.6.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .names import words

#: The type character of ml_dtypes' bfloat16.
CHAR = "E"

# Summed in float32 and rounded; NumPy would round each sum, or return float32 (matmul).
_SUMMED = frozenset(words("dot matmul mean prod sum tensordot vdot"))

# Without a loop for bfloat16: the result is float32.
_WIDE = frozenset(words("allclose around clip isclose round where"))

# Without support for bfloat16, or not examined.
_REFUSED = frozenset(
    words("""
        argpartition argsort cumprod cumsum cumulative_prod cumulative_sum divmod einsum inner lexsort median nanmedian
        nanpercentile nanquantile nanstd nanvar partition percentile quantile searchsorted sort std unique unique_all
        unique_counts unique_inverse unique_values var
    """)
)


def holds_bfloat16(values: Any) -> bool:
    """Return whether one of the host values is a bfloat16 array, or a sequence that contains one."""
    return any(
        value.dtype.char == CHAR
        if isinstance(value, np.ndarray | np.generic)
        else type(value) in (tuple, list) and holds_bfloat16(value)
        for value in values
    )


def computed(name: str, function: Callable[..., Any], args: Any, kwargs: dict[str, Any]) -> Any:
    """Call a NumPy function on bfloat16 arrays with CuPy's result dtypes and rounding.

    Parameters
    ----------
    name : str
        CuPy's name of the function.
    function : callable
        NumPy's function.
    args, kwargs
        Host values, including bfloat16 arrays.

    Raises
    ------
    TypeError
        If CuPy's function does not support bfloat16.
    """
    if name in _REFUSED:
        raise TypeError(f"cupy.{name}() does not support bfloat16 arrays; convert them to float32")
    if name in _WIDE:
        return function(*_wide(args), **dict(zip(kwargs, _wide(kwargs.values()), strict=True)))
    if name not in _SUMMED:
        return function(*args, **kwargs)
    dtype = next(value.dtype for value in (*args, *kwargs.values()) if holds_bfloat16([value]))
    out = kwargs.pop("out", None)
    if name == "dot" and len(args) == 3:
        *args, out = args
    mixed = any(isinstance(value, np.ndarray) and value.dtype.char in "fd" for value in args)
    result = function(*_wide(args), **kwargs)
    if out is not None:
        out[...] = result
        return out
    return result if mixed or kwargs.get("dtype") is not None else result.astype(dtype)


def _wide(values: Any) -> list[Any]:
    """Return the values with bfloat16 arrays converted to float32."""
    return [value.astype(np.float32) if holds_bfloat16([value]) else value for value in values]
