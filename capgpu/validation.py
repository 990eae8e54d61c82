"""Checks of what callers hand in, before anything is computed.

An error names the argument, says what came and what was wanted, and how to mend it.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from typing import Any

from capgpu.backend import Array, array_namespace, is_host_array
from capgpu.dtypes import is_floating

__all__ = [
    "check_arrays",
    "check_count",
    "check_finite",
    "check_mask",
    "check_positive",
    "check_same_dtype",
    "check_token_ids",
    "checked_data",
]

_data_checked: ContextVar[bool] = ContextVar("data_checked", default=False)


def check_arrays(**specification: tuple[Array, str]) -> Any:
    """Check ranks, dimensions and dtypes of floating arrays against symbols, and return their namespace.

    Parameters
    ----------
    **specification : (array, str)
        Each argument by its name, with its shape in symbols, e.g. ``x=(x, "N T D")``. A symbol stands for one
        extent everywhere; ``4H`` is four times H; ``...`` as the second symbol stands for any number of
        extents.

    Returns
    -------
    module
        The array namespace that serves all of them.

    Raises
    ------
    TypeError
        For arrays of different libraries or floating dtypes, or of a dtype that is not floating.
    ValueError
        For a wrong rank or extent, or an extent of zero.
    """
    arrays = {name: array for name, (array, _) in specification.items()}
    xp = array_namespace(**arrays)
    check_same_dtype(xp, **arrays)
    extents: dict[str, tuple[int, str]] = {}
    for name, (array, shape) in specification.items():
        symbols = shape.split()
        if "..." in symbols:
            if array.ndim < len(symbols):
                raise ValueError(
                    f"{name} has shape {tuple(array.shape)}; wanted ({', '.join(symbols)}): at least "
                    f"{len(symbols)} dimensions."
                )
            symbols = [symbols[0]]
        elif array.ndim != len(symbols):
            raise ValueError(
                f"{name} has shape {tuple(array.shape)}, {array.ndim} dimension{'s' * (array.ndim != 1)}; "
                f"wanted ({', '.join(symbols)}), {len(symbols)}."
            )
        for axis, symbol in enumerate(symbols):
            extent = array.shape[axis]
            if extent == 0:
                raise ValueError(
                    f"{name} has shape {tuple(array.shape)}: its dimension {symbol} is empty. Pass at least one."
                )
            times = int(symbol[:-1]) if symbol[:-1].isdigit() else 1
            if extent % times:
                raise ValueError(
                    f"{name} has shape {tuple(array.shape)}: dimension {axis} must be {symbol}, a multiple of {times}."
                )
            letter = symbol[-1] if times > 1 else symbol
            value, owner = extents.setdefault(letter, (extent // times, name))
            if value != extent // times:
                raise ValueError(
                    f"{name} has shape {tuple(array.shape)}; wanted ({', '.join(symbols)}) with {letter} = "
                    f"{value}, as {owner} has it: dimension {axis} should be {value * times}, not {extent}."
                )
    return xp


def check_same_dtype(xp: Any, **arrays: Array) -> None:
    """Check that all arrays have one floating dtype, so that nothing is promoted on the way.

    Parameters
    ----------
    xp : module
        Their namespace.
    **arrays : array
        Each by its name.

    Raises
    ------
    TypeError
        Naming the two arguments that differ, or the one that is not floating.
    """
    first_name, first = "", None
    for name, array in arrays.items():
        if first is None or array.dtype != first:
            if not is_floating(array.dtype, xp):
                raise TypeError(
                    f"{name} has dtype {array.dtype}; wanted a floating dtype. Convert it: "
                    f"{name}.astype(numpy.float32)."
                )
            if first is None:
                first_name, first = name, array.dtype
            else:
                raise TypeError(
                    f"{first_name} has dtype {first} and {name} has dtype {array.dtype}: one call works in "
                    f"one dtype. Convert one: {name}.astype({first_name}.dtype)."
                )


def check_token_ids(name: str, ids: Array, limit: int, xp: Any, owner: str = "the vocabulary") -> None:
    """Check that ids are integers in ``[0, limit)`` (on a device this waits for the answer).

    Parameters
    ----------
    name : str
        The argument's name.
    ids : array
        Token ids of any shape.
    limit : int
        Number of rows that can be addressed.
    xp : module
        The namespace of `ids`.
    owner : str
        What has `limit` entries, for the message.

    Raises
    ------
    TypeError
        For a dtype that is not an integer.
    ValueError
        For an id out of range, which on a GPU would read foreign memory.
    """
    if not xp.isdtype(ids.dtype, "integral"):
        raise TypeError(f"{name} has dtype {ids.dtype}; wanted integer token ids. Convert: {name}.astype(numpy.int64).")
    if ids.size == 0:
        return
    low, high = int(xp.min(ids)), int(xp.max(ids))
    if low < 0 or high >= limit:
        bad = low if low < 0 else high
        raise ValueError(
            f"{name} holds the token id {bad}, but {owner} has {limit} entries: ids must be in 0..{limit - 1}."
        )


def check_mask(name: str, mask: Array, shape: tuple[int, ...], xp: Any) -> None:
    """Check that a mask is boolean and of the given shape.

    Parameters
    ----------
    name : str
        The argument's name.
    mask : array
        The mask.
    shape : tuple of int
        The shape wanted.
    xp : module
        The namespace of `mask`.

    Raises
    ------
    TypeError
        For a dtype other than bool.
    ValueError
        For another shape.
    """
    if not xp.isdtype(mask.dtype, "bool"):
        raise TypeError(f"{name} has dtype {mask.dtype}; wanted bool. Convert it: {name} != 0.")
    if tuple(mask.shape) != shape:
        raise ValueError(f"{name} has shape {tuple(mask.shape)}; wanted {shape}.")


@contextmanager
def checked_data() -> Iterator[None]:
    """Spare a device the waiting in a ``with`` block whose data have been checked before, all of them.

    A training loop checks its data once (`capgpu.data.arrays.validate_data`): to look at each minibatch again would
    mean waiting for the device at every step. `check_finite` then looks at arrays on the host alone. A value that
    is not finite all the same is not lost sight of: it makes the loss one that is not.
    """
    token = _data_checked.set(True)
    try:
        yield
    finally:
        _data_checked.reset(token)


def check_finite(name: str, array: Array, xp: Any = None) -> None:
    """Check that no entry is NaN or infinite (on a device this waits for the answer, but see `checked_data`).

    Parameters
    ----------
    name : str
        The argument's name.
    array : array
        A floating array.
    xp : module, optional
        Its namespace; looked for where None, and only if the array is looked at.

    Raises
    ------
    ValueError
        Saying how many entries are not finite, and where the first one is.
    """
    if _data_checked.get() and not is_host_array(array):
        return
    xp = array_namespace(array) if xp is None else xp
    finite = xp.isfinite(array)
    if bool(xp.all(finite)):
        return
    flat = xp.reshape(finite, (-1,))
    count = int(xp.sum(xp.astype(~flat, xp.int64)))
    position, where = int(xp.argmin(xp.astype(flat, xp.int8))), []
    for extent in reversed(array.shape):
        where.append(position % extent)
        position //= extent
    raise ValueError(
        f"{name} holds {count} value{'s' * (count != 1)} that {'are' if count != 1 else 'is'} NaN or "
        f"infinite, the first at {tuple(reversed(where))}. Clean or drop those rows before training."
    )


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
