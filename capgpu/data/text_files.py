"""Text and JSON files of data sets, with errors that name the file and the position."""

from __future__ import annotations

import codecs
import io
import json
import os
import re
from collections.abc import Iterator
from functools import partial
from typing import Any

from capgpu.errors import CapgpuError
from capgpu.file_formats.content import read_content
from capgpu.file_formats.json_text import parse_json
from capgpu.visible_text import short

__all__ = [
    "DataFileError",
    "check_text",
    "entries_of",
    "id_of",
    "is_empty",
    "lines_of",
    "picture_names",
    "read_json",
    "read_text",
]


#: The largest text file: COCO's annotations have a tenth of a gigabyte.
_MOST_BYTES = 1 << 32
#: Characters that are not text: NUL and surrogates.
_NO_TEXT = re.compile("[\x00\ud800-\udfff]")
#: The rest of a JSON text that ends inside of a word, a number or an escape.
_TRUNCATED = re.compile(r"\s*(?:[\w.\\+-]+\s*)?")


class DataFileError(CapgpuError, ValueError):
    """A file of a data set is damaged or has another format; the message names the file and the position."""


def read_text(path: str | os.PathLike[str]) -> str:
    """Read a UTF-8 text file.

    Parameters
    ----------
    path : path
        The file; a leading byte-order mark is skipped.

    Returns
    -------
    str
        The text, with its line ends unchanged.

    Raises
    ------
    DataFileError
        For bytes that are not UTF-8, and more than 4 GiB.
    OSError
        If the file cannot be read.
    """
    content = read_content(path, _MOST_BYTES, DataFileError)
    try:
        return content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        if error.reason == "unexpected end of data":
            remedy = "The file ends inside of a character: it is truncated. Download or write it again."
        else:
            coding = "utf-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "latin1"
            remedy = f"Convert the file, for example: iconv -f {coding} -t utf-8."
        raise DataFileError(
            f"{os.fspath(path)}, line {line}: byte {error.start} (0x{content[error.start]:02x}) is not UTF-8. {remedy}"
        ) from error


def lines_of(text: str) -> Iterator[tuple[int, str]]:
    r"""Yield the lines of a text, numbered from 1; lines end with ``\n``, ``\r\n`` or ``\r``."""
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
        The decoded content.

    Raises
    ------
    DataFileError
        For bytes that are not UTF-8, and for text that is not valid JSON (a truncated file, for example).
    OSError
        If the file cannot be read.
    """
    text = read_text(path)
    name = os.fspath(path)
    return parse_json(text, lambda cause: DataFileError(f"{name}: {cause}."), partial(_invalid, name, text))


def _invalid(name: str, text: str, error: json.JSONDecodeError) -> DataFileError:
    cut = error.msg.startswith("Unterminated") or _TRUNCATED.fullmatch(text, error.pos)
    end = " The file is truncated." if cut else ""
    return DataFileError(
        f"{name}, line {error.lineno}, column {error.colno}: expected valid JSON, got {error.msg}.{end} Download or "
        "write the file again."
    )


def is_empty(value: object) -> bool:
    """Return whether a value is None, NaN (which pandas writes for a missing text) or a text of white space."""
    return value is None or value != value or (isinstance(value, str) and not value.strip())


def check_text(value: object, where: str) -> str:
    """Check that a value is a non-empty text that UTF-8 can encode.

    Parameters
    ----------
    value : object
        The value.
    where : str
        File and position, for the message.

    Returns
    -------
    str
        The text without leading and trailing white space.

    Raises
    ------
    DataFileError
        For any other value.
    """
    if not isinstance(value, str):
        raise DataFileError(f"{where}: expected a text, got {short(value)}.")
    text = value.strip()
    if not text:
        raise DataFileError(f"{where}: expected a text, got an empty one. Write a text, or remove the entry.")
    if _NO_TEXT.search(text):
        raise DataFileError(f"{where}: expected a text without NUL and surrogates, got {short(text)}.")
    return text


def entries_of(content: Any, key: str, name: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the objects of a list in a JSON file.

    Parameters
    ----------
    content : object
        Content of the file.
    key : str
        Key of the list.
    name : str
        Name of the file, for messages.

    Yields
    ------
    where : str
        File and position of the object.
    entry : dict
        The object.

    Raises
    ------
    DataFileError
        If there is no such list, or it is empty or contains something else than objects.
    """
    entries = content.get(key) if isinstance(content, dict) else None
    if not isinstance(entries, list) or not entries:
        found = (
            f"keys {', '.join(map(short, list(content)[:8]))}" if isinstance(content, dict) else type(content).__name__
        )
        raise DataFileError(f"{name}: expected a non-empty list {key} of captions in JSON, got {found}.")
    for row, entry in enumerate(entries):
        where = f"{name}: {key}[{row}]"
        if not isinstance(entry, dict):
            raise DataFileError(f"{where}: expected an object, got {type(entry).__name__}.")
        yield where, entry


def picture_names(content: Any) -> list[str]:
    """Return the names of the pictures in a JSON file of COCO's or Karpathy's format; of invalid entries none."""
    images = content.get("images") if isinstance(content, dict) else None
    names = []
    for image in images if isinstance(images, list) else []:
        if isinstance(image, dict):
            parts = [image.get(key) for key in ("filepath", "filename", "file_name")]
            names.append("/".join(part for part in parts if isinstance(part, str) and part))
    return [name for name in names if name]


def id_of(entry: dict[str, Any], key: str, where: str) -> int | str:
    """Return an id, an integer or a text, from an object of a JSON file; DataFileError for any other value."""
    value = entry.get(key)
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise DataFileError(f"{where}.{key}: expected an integer or a text, got {short(value)}.")
    return value if isinstance(value, int) else check_text(value, f"{where}.{key}")
