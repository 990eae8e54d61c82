"""Text and JSON as data sets bring them: read whole, with errors that name the file and the place."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
import reprlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ["DataFileError", "check_text", "entries_of", "id_of", "lines_of", "read_json", "read_text"]


#: NUL, and halves of pairs.
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
#: What is left of a text that ends inside of a word, a number or an escape.
_TORN = re.compile(r"\s*(?:[\w.\\+-]+\s*)?")


class DataFileError(ValueError):
    """A file of a data set is damaged or of another form; the message names the file and the place."""


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file.

    Parameters
    ----------
    path : path
        The file; a byte-order mark at its front is skipped.

    Returns
    -------
    str
        Its text, with the line ends it has.

    Raises
    ------
    DataFileError
        For bytes that are not UTF-8, naming their line.
    OSError
        As the system gives it: no such file, no permission.
    """
    content = Path(path).read_bytes()
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        if error.reason == "unexpected end of data":
            mend = "The file ends inside of a letter: it is cut short. Fetch or write it anew."
        else:
            coding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin1"
            mend = f"Convert the file, for instance: iconv -f {coding} -t utf-8."
        raise DataFileError(
            f"{os.fspath(path)}, line {line}: byte {error.start} (0x{content[error.start]:02x}) is not UTF-8. {mend}"
        ) from error


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    r"""Go through the lines of a text, numbered from 1; they end as in editors, with ``\n``, ``\r\n`` or ``\r``."""
    yield from enumerate((line.rstrip("\n") for line in io.StringIO(text, newline=None)), start=1)


def read_json(path: str | os.PathLike[str]) -> Any:
    """Read a JSON file.

    Parameters
    ----------
    path : path
        The file, in UTF-8.

    Returns
    -------
    object
        What it holds.

    Raises
    ------
    DataFileError
        For bytes that are not UTF-8, and for text that is no JSON (cut short, for instance), naming line and column.
    OSError
        As the system gives it.
    """
    text = read_text(path)
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        cut = error.msg.startswith("Unterminated") or _TORN.fullmatch(text, error.pos)
        end = " The text ends before it is complete: it is cut short." if cut else ""
        raise DataFileError(
            f"{os.fspath(path)}, line {error.lineno}, column {error.colno}: no valid JSON ({error.msg}).{end} "
            "Fetch or write the file anew."
        ) from error
    except (ValueError, RecursionError) as error:
        raise DataFileError(
            f"{os.fspath(path)} is JSON that cannot be read: {error}. Wanted a plain file of objects, lists, texts and "
            "numbers."
        ) from error


def check_text(value: object, where: str) -> str:
    """Check that a value is a text with something in it, which UTF-8 can hold.

    Parameters
    ----------
    value : object
        What was found.
    where : str
        File and place, for the message.

    Returns
    -------
    str
        The text, white space at both ends cut off.

    Raises
    ------
    DataFileError
        For anything else.
    """
    if not isinstance(value, str):
        raise DataFileError(f"{where} is {_short(value)}; wanted a text.")
    text = value.strip()
    if not text:
        raise DataFileError(f"{where} is empty. Write a text there, or take the entry out.")
    if _NO_TEXT.search(text):
        raise DataFileError(f"{where} is {_short(text)}, which holds characters that no text has (NUL or half a pair).")
    return text


def entries_of(content: Any, key: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Go through the objects that a JSON file lists under a key.

    Parameters
    ----------
    content : object
        What the file held.
    key : str
        The key.
    name : str
        The file, for messages.

    Yields
    ------
    where : str
        File and place of the object.
    entry : dict
        The object.

    Raises
    ------
    DataFileError
        If there is no such list, it is empty, or holds something else.
    """
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        found = (
            f"keys {', '.join(map(ascii, list(content)[:8]))}" if isinstance(content, dict) else type(content).__name__
        )
        raise DataFileError(f"{name} has no list of {key} (found: {found}). Wanted a file of captions in JSON.")
    for row, entry in enumerate(entries):
        where = f"{name}: {key}[{row}]"
        if not isinstance(entry, dict):
            raise DataFileError(f"{where} is a {type(entry).__name__}; wanted an object.")
        yield where, entry


def id_of(entry: dict[str, Any], key: str, where: str) -> int | str:
    """Take an id, a whole number or a text, out of an object of a JSON file; DataFileError for anything else."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DataFileError(f"{where}.{key} is {_short(value)}; wanted a whole number or a text.")
    return value if isinstance(value, int) else check_text(value, f"{where}.{key}")


def _short(value: object) -> str:
    words = reprlib.repr(value).encode("ascii", "backslashreplace").decode()
    return words if len(words) <= 40 else f"{words[:37]}..."
