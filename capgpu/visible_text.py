"""Text of any origin for messages: safe to print, short, and with the name that was probably meant."""

from __future__ import annotations

import re
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches

__all__ = ["clipped", "hint", "printable_json", "short", "visible"]

#: Control characters except tabs and line breaks, those that reverse the direction of text or end lines, surrogates.
_CONTROLS = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")

_LONGEST = 60

_shortened = reprlib.Repr()
_shortened.maxstring = _shortened.maxother = _shortened.maxlong = _LONGEST
_shortened.maxlevel = 3


def visible(text: str) -> str:
    r"""Return a text with escapes for what a terminal would execute.

    Parameters
    ----------
    text : str
        For example a caption or the name of a file, which may contain sequences that change the terminal's title,
        colours or contents.

    Returns
    -------
    str
        ``\x1b[2J`` in place of the sequence that clears the screen. Tabs and line breaks are kept, and so are
        characters of all languages and emoji.
    """
    return _CONTROLS.sub(lambda found: _escape(ord(found[0])), text)


def printable_json(text: str) -> str:
    r"""Return a JSON text in which the same characters are written as ``\u001b``: a parser reads the same values."""
    return _CONTROLS.sub(lambda found: f"\\u{ord(found[0]):04x}", text)


def _escape(code: int) -> str:
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"


def short(value: object) -> str:
    """Return a short ASCII description of a value of a file, for messages."""
    text = _shortened.repr(value).encode("ascii", "backslashreplace").decode()
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def clipped(name: str) -> str:
    """Return a name of a file for messages, its beginning if it is long."""
    return name if len(name) <= _LONGEST else f"{name[: _LONGEST - 3]}..."


def hint(name: object, known: Iterable[str]) -> str:
    """Return " Did you mean 'adam'?" for a name that is similar to a known one, else an empty text."""
    near = get_close_matches(str(name), list(known), n=1)
    return f" Did you mean {near[0]!r}?" if near and near[0] != name else ""
