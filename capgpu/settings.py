"""Checks of single numbers that a caller sets."""

from __future__ import annotations

import math
from numbers import Integral, Real
from typing import Any

__all__ = ["check_count", "check_positive"]


def check_count(name: str, value: Any, least: int) -> None:
    """Check that a setting is a whole number.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        What was given.
    least : int
        The smallest value allowed.

    Raises
    ------
    TypeError
        For anything but an integer.
    ValueError
        For one below `least`.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"{name} is {value!r}; wanted a whole number.")
    if int(value) < least:
        raise ValueError(f"{name} is {value}; wanted at least {least}.")


def check_positive(name: str, value: Any) -> None:
    """Check that a setting is a positive finite number.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        What was given.

    Raises
    ------
    TypeError
        For anything but a real number.
    ValueError
        For zero, a negative number, NaN or infinity.
    """
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(f"{name} is {value!r}; wanted a number.")
    if not (math.isfinite(value) and float(value) > 0):
        raise ValueError(f"{name} is {value!r}; wanted a positive finite number.")
