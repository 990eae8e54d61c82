"""Validation of arguments before anything is computed.

A message names the argument, what was expected and what was given, and a remedy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from numbers import Integral, Real
from typing import Any

from capgpu.array_origin import torch_advice
from capgpu.backend import Array, array_namespace, is_host_array
from capgpu.dtypes import is_floating
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.visible_text import short

__all__ = [
    "as_float",
    "check_any_word",
    "check_arrays",
    "check_captions",
    "check_count",
    "check_finite",
    "check_finite_number",
    "check_flag",
    "check_integer",
    "check_mask",
    "check_not_negative",
    "check_positive",
    "check_rates",
    "check_same_dtype",
    "check_token_ids",
    "check_word_to_idx",
    "checked_data",
    "inputs_like",
]

_data_checked: ContextVar[bool] = ContextVar("data_checked", default=False)


def check_arrays(**specification: tuple[Array, str]) -> Any:
    """Validate ranks, dimensions and dtypes of floating-point arrays against symbolic shapes; return their namespace.

    Parameters
    ----------
    **specification : (array, str)
        Each argument by its name, with its symbolic shape, e.g. ``x=(x, "N T D")``. A symbol stands for the same
        extent in all shapes; ``4H`` is four times H; ``...`` as the second symbol stands for any number of extents.

    Returns
    -------
    module
        The array namespace of all arguments.

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
                raise InvalidValueError(
                    f"{name}: expected shape ({', '.join(symbols)}), at least {len(symbols)} dimensions, got "
                    f"{tuple(array.shape)}."
                )
            symbols = [symbols[0]]
        elif array.ndim != len(symbols):
            raise InvalidValueError(
                f"{name}: expected shape ({', '.join(symbols)}), {len(symbols)} "
                f"dimension{'s' * (len(symbols) != 1)}, got {tuple(array.shape)}."
            )
        for axis, symbol in enumerate(symbols):
            extent = array.shape[axis]
            if extent == 0:
                raise InvalidValueError(
                    f"{name}: expected a dimension {symbol} of at least 1, got shape {tuple(array.shape)}."
                )
            times = int(symbol[:-1]) if symbol[:-1].isdigit() else 1
            if extent % times:
                raise InvalidValueError(
                    f"{name}: expected dimension {axis} to be {symbol}, a multiple of {times}, got shape "
                    f"{tuple(array.shape)}."
                )
            letter = symbol[-1] if times > 1 else symbol
            value, owner = extents.setdefault(letter, (extent // times, name))
            if value != extent // times:
                raise InvalidValueError(
                    f"{name}: expected shape ({', '.join(symbols)}) with {letter} = {value}, as in {owner}, got "
                    f"{tuple(array.shape)}: dimension {axis} must be {value * times}."
                )
    return xp


def check_same_dtype(xp: Any, **arrays: Array) -> None:
    """Check that all arrays have the same floating-point dtype, so that no operation promotes one.

    Parameters
    ----------
    xp : module
        Their namespace.
    **arrays : array
        Each by its name.

    Raises
    ------
    TypeError
        If two arrays differ in dtype, or one is not floating-point.
    """
    first_name, first = "", None
    for name, array in arrays.items():
        if first is None or array.dtype != first:
            if not is_floating(array.dtype, xp):
                raise InvalidTypeError(
                    f"{name}: expected a floating-point dtype, got {array.dtype}. Convert: "
                    f"{name}.astype(numpy.float32)."
                )
            if first is None:
                first_name, first = name, array.dtype
            else:
                raise InvalidTypeError(
                    f"{name}: expected dtype {first}, as {first_name}, got {array.dtype}. Convert: "
                    f"{name}.astype({first_name}.dtype)."
                )


def inputs_like(weights: Array, *inputs: Array) -> tuple[Array, ...]:
    """Convert floating-point inputs and states to the dtype of their weights, as a model converts its features.

    The states of public solutions to the course are often float64 (``numpy.zeros``) beside float32 weights.

    Parameters
    ----------
    weights : array
        The weights.
    *inputs : array
        Inputs and states. Those of another library, not floating, or with a half type on one side are returned as
        they are, to be refused.

    Returns
    -------
    tuple of array
        The inputs.
    """
    dtype = getattr(weights, "dtype", None)
    others = [array for array in inputs if getattr(array, "dtype", dtype) != dtype]
    if not others or dtype is None:
        return inputs
    xp = array_namespace(weights)

    def convertible(array: Any) -> bool:
        same_library = isinstance(array, type(weights)) or (is_host_array(array) and is_host_array(weights))
        return same_library and all(is_floating(d, xp) and d in (xp.float32, xp.float64) for d in (array.dtype, dtype))

    return tuple(
        xp.astype(array, dtype) if any(array is other for other in others) and convertible(array) else array
        for array in inputs
    )


def check_token_ids(name: str, ids: Array, limit: int, xp: Any, owner: str = "the vocabulary") -> None:
    """Check that ids are integers in ``[0, limit)``; on a device this synchronizes.

    Parameters
    ----------
    name : str
        The argument's name.
    ids : array
        Token ids of any shape.
    limit : int
        Number of valid ids.
    xp : module
        The namespace of `ids`.
    owner : str
        What has `limit` entries, for the message.

    Raises
    ------
    TypeError
        For a dtype that is not an integer.
    ValueError
        For an id out of range, with which a GPU would read other memory.
    """
    if not xp.isdtype(ids.dtype, "integral"):
        raise InvalidTypeError(
            f"{name}: expected integer token ids, got dtype {ids.dtype}. Convert: {name}.astype(numpy.int64)."
        )
    if ids.size == 0:
        return
    low, high = int(xp.min(ids)), int(xp.max(ids))
    if low < 0 or high >= limit:
        bad = low if low < 0 else high
        raise InvalidValueError(
            f"{name}: expected ids in 0..{limit - 1} for the {limit} entries of {owner}, got {bad}."
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
        The expected shape.
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
        raise InvalidTypeError(f"{name}: expected dtype bool, got {mask.dtype}. Convert: {name} != 0.")
    if tuple(mask.shape) != shape:
        raise InvalidValueError(f"{name}: expected shape {shape}, got {tuple(mask.shape)}.")


@contextmanager
def checked_data() -> Iterator[None]:
    """Skip the device-side finiteness check, and its synchronization, in a ``with`` block.

    A training loop validates its data once (`capgpu.data.arrays.validate_data`): checking every minibatch would
    synchronize the device at every step. `check_finite` then checks host arrays only. A value that is not finite is
    still detected: it makes the loss NaN or infinite.
    """
    token = _data_checked.set(True)
    try:
        yield
    finally:
        _data_checked.reset(token)


def check_finite(name: str, array: Array, xp: Any = None) -> None:
    """Check that no entry is NaN or infinite; on a device this synchronizes, unless inside of `checked_data`.

    Parameters
    ----------
    name : str
        The argument's name.
    array : array
        A floating array.
    xp : module, optional
        The namespace of `array`; determined if None and needed.

    Raises
    ------
    ValueError
        With the number of entries that are not finite, and the index of the first.
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
    raise InvalidValueError(
        f"{name}: expected finite values, got {count} NaN or infinite value{'s' * (count != 1)}, the first at "
        f"{tuple(reversed(where))}. Remove those rows."
    )


def check_integer(name: str, value: Any) -> None:
    """Check that a setting is an integer.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        The value.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise InvalidTypeError(f"{name}: expected an integer, got {short(value)}.")


def check_count(name: str, value: Any, least: int) -> None:
    """Check that a setting is an integer of at least `least`.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        The value.
    least : int
        The smallest valid value.

    Raises
    ------
    TypeError
        For anything but an integer.
    ValueError
        For a value below `least`.
    """
    check_integer(name, value)
    if int(value) < least:
        raise InvalidValueError(f"{name}: expected at least {least}, got {value}.")


def check_finite_number(name: str, value: Any) -> None:
    """Check that a setting is a finite number.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        The value.

    Raises
    ------
    TypeError
        For anything but a real number.
    ValueError
        For NaN or infinity.
    """
    _check_number(name, value, "a finite number", math.isfinite)


def check_positive(name: str, value: Any) -> None:
    """Check that a setting is a positive finite number; otherwise as `check_finite_number`."""
    _check_number(name, value, "a positive finite number", lambda number: 0 < number < math.inf)


def check_not_negative(name: str, value: Any) -> None:
    """Check that a setting is a finite number of at least 0; otherwise as `check_finite_number`."""
    _check_number(name, value, "a finite number of at least 0", lambda number: 0 <= number < math.inf)


def check_rates(**rates: Any) -> None:
    """Check that settings, by the names of the arguments, are in [0, 1); otherwise as `check_finite_number`."""
    for name, rate in rates.items():
        _check_number(name, rate, "a rate in [0, 1)", lambda number: 0 <= number < 1)


def _check_number(name: str, value: Any, expected: str, is_valid: Callable[[float], bool]) -> None:
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidTypeError(f"{name}: expected a number, got {short(value)}.")
    if not is_valid(as_float(value)):
        raise InvalidValueError(f"{name}: expected {expected}, got {short(value)}.")


def as_float(number: Any) -> float:
    """Return a number as a float; infinite for an integer beyond the floats, for which `float` raises OverflowError."""
    try:
        return float(number)
    except OverflowError:
        return math.inf if number > 0 else -math.inf


def check_flag(name: str, value: Any) -> None:
    """Check that a setting is True or False: a text such as "no" would count as True.

    Parameters
    ----------
    name : str
        The argument's name.
    value : object
        The value.

    Raises
    ------
    TypeError
        For anything else.
    """
    if not isinstance(value, bool) and type(value).__name__ not in ("bool", "bool_"):  # numpy.bool
        raise InvalidTypeError(f"{name}: expected True or False, got {short(value)}.")


def check_captions(captions: Array) -> None:
    """Check the dtype and the shape of captions, wherever they live.

    Parameters
    ----------
    captions : array
        Should be integers of shape (N, T + 1), N >= 1, T >= 1.

    Raises
    ------
    TypeError
        For what is not an array, or a dtype that is not an integer.
    ValueError
        For another rank, an empty batch, or fewer than two columns.
    """
    if not hasattr(captions, "dtype"):
        raise InvalidTypeError(
            f"captions: expected an array of integers, got a {type(captions).__name__}. numpy.asarray makes one."
        )
    if type(captions).__module__.split(".")[0] == "torch":
        raise InvalidTypeError(torch_advice("captions"))
    if not array_namespace(captions=captions).isdtype(captions.dtype, "integral"):
        raise InvalidTypeError(
            f"captions: expected integer word ids, got dtype {captions.dtype}. Convert: captions.astype(numpy.int64)."
        )
    if captions.ndim != 2 or captions.shape[0] < 1 or captions.shape[1] < 2:
        raise InvalidValueError(
            "captions: expected shape (N, T + 1) with N >= 1 and T >= 1 (an input and a target), got "
            f"{tuple(captions.shape)}."
        )


def check_any_word(name: str, captions: Any, null: int) -> None:
    """Check that host captions hold at least one word to predict.

    Parameters
    ----------
    name : str
        The argument's name.
    captions : numpy.ndarray of int, shape (N, T + 1)
        Captions.
    null : int
        Id of padding.

    Raises
    ------
    ValueError
        If every entry after the first of each caption is padding: the loss would be 0 whatever the parameters.
    """
    if not (captions[:, 1:] != null).any():
        raise InvalidValueError(
            f"{name}: expected at least one word after the first column, got padding (<NULL>, id {null}) only. Remove "
            "captions without words."
        )


def check_word_to_idx(word_to_idx: Any) -> None:
    """Check that a vocabulary maps words to ids.

    Parameters
    ----------
    word_to_idx : object
        The vocabulary.

    Raises
    ------
    TypeError
        For anything but a mapping of strings to integers, such as the list or mapping of ids to words.
    """
    if not isinstance(word_to_idx, Mapping):
        raise InvalidTypeError(
            f"word_to_idx: expected a mapping of words to ids, got a {type(word_to_idx).__name__}. Pass the data's "
            "word_to_idx; from a list of words: {word: i for i, word in enumerate(words)}."
        )
    for word, index in word_to_idx.items():
        if not isinstance(word, str) or isinstance(index, bool) or not isinstance(index, Integral):
            remedy = (
                " This is idx_to_word: pass word_to_idx."
                if isinstance(word, Integral) and isinstance(index, str)
                else ""
            )
            raise InvalidTypeError(
                f"word_to_idx: expected a mapping of words to ids, got the entry {word!r}: {index!r}.{remedy}"
            )
