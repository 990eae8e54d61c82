"""JSON of files: parsed with limits, and read by the types that are expected of it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

from capgpu.errors import CapgpuError
from capgpu.visible_text import short

__all__ = ["JsonObject", "parse_json"]

#: Lists and objects inside of each other: no format here needs more than ten.
_DEEPEST = 100


def parse_json(
    text: str | bytes,
    fail: Callable[[str], CapgpuError],
    invalid: Callable[[json.JSONDecodeError], CapgpuError] | None = None,
    hook: Callable[[list[tuple[str, Any]]], Any] | None = None,
) -> Any:
    """Parse a JSON text.

    Parameters
    ----------
    text : str or bytes
        The text; bytes are UTF-8.
    fail : callable
        Makes the exception from a cause without a final period, which begins with "expected".
    invalid : callable, optional
        Makes the exception for an error at a position, by default also by `fail`.
    hook : callable, optional
        Makes an object from its keys and values, by default a dict.

    Returns
    -------
    object
        Its lists and objects are at most 100 inside of each other.

    Raises
    ------
    CapgpuError
        As made by `fail` or `invalid`, for anything else.
    """
    try:
        value = json.loads(text.decode() if isinstance(text, bytes) else text, object_pairs_hook=hook)
    except json.JSONDecodeError as error:
        if invalid is not None:
            raise invalid(error) from error
        raise fail(f"expected valid JSON, got {error}") from error
    except UnicodeDecodeError as error:
        raise fail(f"expected UTF-8, got byte {error.start} (0x{error.object[error.start]:02x})") from error
    except (ValueError, RecursionError) as error:
        cause = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise fail(f"expected JSON of objects, lists, texts and numbers, got {cause}") from error
    level = [value]
    for _ in range(_DEEPEST):
        level = [
            entry
            for outer in level
            for entry in (outer.values() if isinstance(outer, dict) else outer if isinstance(outer, list) else ())
            if isinstance(entry, (dict, list))
        ]
        if not level:
            return value
    raise fail(f"expected at most {_DEEPEST} lists and objects inside of each other, got more")


class JsonObject:
    """The entries of a JSON object, by the types that they must have.

    Parameters
    ----------
    value : object
        The value in the file.
    where : str
        File and place, which begin the messages.
    error : type of CapgpuError
        Exception for another type or a missing entry.
    remedy : str
        Sentence at the end of the messages.
    """

    def __init__(self, value: Any, where: str, error: type[CapgpuError], remedy: str = "") -> None:
        self.where, self.error, self.remedy = where, error, remedy
        if not isinstance(value, dict):
            raise self.wrong("an object", value)
        self.value: dict[str, Any] = value

    def wrong(self, expected: str, found: object, key: str | None = None) -> CapgpuError:
        """Return the exception for a value: that of a key, or the object itself."""
        place = self.where if key is None else f"{self.where}: {key}"
        return self.error(f"{place}: expected {expected}, got {short(found)}. {self.remedy}".rstrip())

    def _typed(self, key: str, expected: str, matches: Callable[[Any], bool]) -> Any:
        if key not in self.value:
            raise self.error(f"{self.where}: expected {key}, {expected}, got no such entry. {self.remedy}".rstrip())
        value = self.value[key]
        if not matches(value):
            raise self.wrong(expected, value, key)
        return value

    def format(self, known: str | int) -> None:
        """Check the entry ``format``."""
        self._typed("format", repr(known), lambda value: type(value) is type(known) and value == known)

    def text(self, key: str) -> str:
        """Return a text."""
        text: str = self._typed(key, "a text", lambda value: isinstance(value, str))
        return text

    def flag(self, key: str) -> bool:
        """Return a truth value."""
        return bool(self._typed(key, "true or false", lambda value: isinstance(value, bool)))

    def integer(self, key: str, least: int = 0, largest: int = 2**63 - 1) -> int:
        """Return an integer in a closed range."""

        def matches(value: Any) -> bool:
            return isinstance(value, int) and not isinstance(value, bool) and least <= value <= largest

        return int(self._typed(key, f"an integer from {least} to {largest}", matches))

    def number(self, key: str) -> float:
        """Return a finite number."""
        return float(self._typed(key, "a finite number", _is_number))

    def numbers(self, key: str, count: int | None = None) -> list[float]:
        """Return a list of finite numbers, of the given length."""

        def matches(value: Any) -> bool:
            return isinstance(value, list) and count in (None, len(value)) and all(map(_is_number, value))

        return list(self._typed(key, f"a list of {'' if count is None else f'{count} '}finite numbers", matches))

    def texts(self, key: str) -> list[str]:
        """Return a list of texts."""

        def matches(value: Any) -> bool:
            return isinstance(value, list) and all(isinstance(entry, str) for entry in value)

        return list(self._typed(key, "a list of texts", matches))

    def entries(self, key: str) -> list[Any]:
        """Return a list of anything."""
        return list(self._typed(key, "a list", lambda value: isinstance(value, list)))

    def object(self, key: str) -> JsonObject:
        """Return an object."""
        found = self._typed(key, "an object", lambda value: isinstance(value, dict))
        return JsonObject(found, f"{self.where}: {key}", self.error, self.remedy)

    def objects(self) -> dict[str, JsonObject]:
        """Return all entries, each of which must be an object."""
        return {key: self.object(key) for key in self.value}


def _is_number(value: Any) -> bool:
    try:
        return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    except OverflowError:  # an integer that no float can hold
        return False
