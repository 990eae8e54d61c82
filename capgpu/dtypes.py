"""Floating dtypes, bfloat16 among them, which NumPy and the array API standard do not know.

bfloat16 arrays have the dtype of the package ml_dtypes, as CuPy's do. It is imported when a bfloat16 dtype is asked for
by name: until then no array can have it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.errors import InvalidTypeError
from capgpu.optional_deps import require
from capgpu.visible_text import short

__all__ = [
    "dtype_name",
    "floating_dtype",
    "is_bfloat16",
    "is_floating",
    "is_half",
    "named_dtype",
    "sum_dtype",
    "widened",
]

# The type characters of float16, and of ml_dtypes' bfloat16 (whose kind is "V", as structures have it).
_BFLOAT16 = "E"
_HALVES = frozenset(("e", _BFLOAT16))


def floating_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the NumPy dtype of a real floating dtype.

    Parameters
    ----------
    dtype : dtype
        A name such as ``"float32"`` or ``"bfloat16"``, a type, or a dtype.

    Returns
    -------
    numpy.dtype
        For ``"bfloat16"`` that of ml_dtypes.

    Raises
    ------
    TypeError
        If it is not a real floating dtype.
    MissingExtraError
        For ``"bfloat16"`` without the package ml_dtypes.
    """
    found = named_dtype(dtype)
    if found.kind != "f" and not is_bfloat16(found):
        raise InvalidTypeError(f"dtype: expected a floating dtype such as numpy.float32, got {found}.")
    return found


def named_dtype(dtype: Any) -> np.dtype[Any]:
    """Return the NumPy dtype of a name, a type or a dtype; ``"bfloat16"`` is ml_dtypes'.

    Parameters
    ----------
    dtype : dtype
        As NumPy names it.

    Returns
    -------
    numpy.dtype
        The dtype.

    Raises
    ------
    TypeError
        For anything that NumPy does not know.
    MissingExtraError
        For ``"bfloat16"`` without the package ml_dtypes.
    """
    if isinstance(dtype, str) and dtype == "bfloat16":
        dtype = require("ml_dtypes", "bfloat16", "The dtype bfloat16").bfloat16
    refusal = InvalidTypeError(f"dtype: expected a dtype such as numpy.float32, got {short(dtype)}.")
    if dtype is None:  # which NumPy reads as float64
        raise refusal
    try:
        found: np.dtype[Any] = np.dtype(dtype)
    except TypeError as error:
        raise refusal from error
    return found


def dtype_name(dtype: Any) -> str:
    """Return the plain name of a dtype of any array library, such as ``float32``."""
    return np.dtype(dtype).name if isinstance(dtype, (type, np.dtype)) else str(dtype).rpartition(".")[2]


def is_floating(dtype: Any, xp: Any) -> bool:
    """Return whether an array's dtype is real floating.

    Parameters
    ----------
    dtype : dtype
        Of an array of any library.
    xp : module
        The array's namespace.

    Returns
    -------
    bool
        True for bfloat16, which ``xp.isdtype`` does not know.
    """
    return is_bfloat16(dtype) or bool(xp.isdtype(dtype, "real floating"))


def is_bfloat16(dtype: Any) -> bool:
    """Return whether a dtype is ml_dtypes' bfloat16."""
    return getattr(dtype, "char", None) == _BFLOAT16


def is_half(dtype: Any) -> bool:
    """Return whether a floating dtype has 16 bits: float16 or bfloat16."""
    return getattr(dtype, "char", None) in _HALVES


def sum_dtype(dtype: Any, xp: Any) -> Any:
    """Return the dtype of losses, norms and running means of arrays of a floating dtype.

    Parameters
    ----------
    dtype : dtype
        Of the arrays.
    xp : module
        Their namespace.

    Returns
    -------
    dtype
        float32 for half types, whose range and digits do not serve for sums over many numbers; else `dtype`.
    """
    return xp.float32 if is_half(dtype) else dtype


def widened(array: Any) -> Any:
    """Return an array of a half type in float32, and any other as it is."""
    return array.astype(np.float32) if is_half(array.dtype) else array
