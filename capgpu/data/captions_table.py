"""Tables of captions: cells, columns of pictures and captions, and lists printed into cells."""

from __future__ import annotations

import ast
import csv
import io
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from capgpu.data.text_files import DataFileError
from capgpu.file_formats.json_text import parse_json

__all__ = ["CAPTION_NAMES", "Columns", "choose_columns", "image_names", "is_caption", "printed_list", "read_cells"]

#: Names of a column of pictures; of several, the one whose pictures exist, then the first of these.
_IMAGE = (
    *("image", "image_name", "image_path", "image_file", "img", "file", "file_name", "filename", "file_path"),
    *("filepath", "picture", "path", "name", "image_id"),
)
#: Names of a column of captions; the first that occurs is used. Each may be in the plural, and numbered.
CAPTION_NAMES = ("caption", "comment", "text", "description", "sentence", "title")
_SPLIT = ("split", "subset", "set")
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
#: A quoted cell, as programs write it.
_QUOTED_CELL = re.compile('"(?:[^"]|"")*"')
_ITEM = re.compile(_QUOTED, re.DOTALL)
#: A list or a tuple of texts as printed by Python, JSON (with commas) and NumPy (without).
_LIST = re.compile(rf"[\[(]\s*{_QUOTED}(?:(?:\s*,\s*|\s+){_QUOTED})*\s*,?\s*[\])]", re.DOTALL)

#: Anything similar to a list.
_LIKE_LIST = re.compile(r"[\[(]\s*['\"].*(?:['\"]|None|nan|null|\.\.\.)\s*,?\s*[\])]", re.DOTALL)


@dataclass(frozen=True)
class Columns:
    """Indices of the used columns of a table.

    Attributes
    ----------
    image : int
        Column of the pictures.
    captions : list of int
        Columns of captions, at least one.
    split : int or None
        Column of the splits.
    note : str or None
        Which columns are used and which are not, if there are others.
    """

    image: int
    captions: list[int]
    split: int | None
    note: str | None


def is_caption(name: str, kind: str) -> bool:
    """Return whether a name is that of a column of captions; `kind` is one of `CAPTION_NAMES`."""
    return re.fullmatch(rf"{kind}s?(?:[ _.-]?\d+)?", name) is not None


def image_names(names: Iterable[str]) -> list[str]:
    """Return the names that may be those of a column of pictures, the most likely first."""
    present = set(names)
    return [name for name in _IMAGE if name in present]


def choose_columns(where: str, names: Sequence[str], found: Callable[[int], int]) -> Columns:
    """Choose the columns of a table by their names.

    Parameters
    ----------
    where : str
        File and line of the header, for messages.
    names : sequence of str
        The header, in lower case.
    found : callable
        Returns how many of the first pictures named in a column exist.

    Returns
    -------
    Columns
        The chosen columns.

    Raises
    ------
    DataFileError
        If there is no column of pictures or of captions, or two columns of pictures or splits have the same name.
    """
    images = [names.index(name) for name in image_names(names)]
    kind = next((kind for kind in CAPTION_NAMES if any(is_caption(name, kind) for name in names)), None)
    if not images or kind is None:
        address = next((name for name in names if re.fullmatch(r"(?:\w+[_ ])?(?:url|uri|link)", name)), None)
        remedy = "" if address is None else f" Download the pictures of {address}, and add a column of their files."
        raise DataFileError(
            f"{where}: expected a header with image and caption (and optionally split), or lines such as name.jpg#0, a "
            f"tab, the caption, got {', '.join(map(ascii, names))[:80]}.{remedy}"
        )
    image = max(images, key=found) if len(images) > 1 else images[0]  # the first of the maxima
    captions = [column for column, name in enumerate(names) if is_caption(name, kind)]
    split = next((names.index(name) for name in _SPLIT if name in names), None)
    for column in (image, split):
        if column is not None and names.count(names[column]) > 1:
            raise DataFileError(f"{where}: expected one column {names[column]!a}, got two. Rename one of them.")
    used = {image, *captions, split}
    others = [name for column, name in enumerate(names) if column not in used]
    note = None
    if others or len(captions) > 1:
        note = (
            f"pictures from the column {names[image]}, captions from {', '.join(names[column] for column in captions)}"
        )
        note += f"; not used: {', '.join(map(ascii, others))}" if others else ""
    return Columns(image, captions, split, note)


def printed_list(cell: str, where: str) -> list[str] | None:
    """Parse a list of texts that Python, JSON or NumPy printed into a cell.

    Parameters
    ----------
    cell : str
        Such as ``['one', 'two']``.
    where : str
        File and position, for the message.

    Returns
    -------
    list of str or None
        The texts; None for a cell without such a list.

    Raises
    ------
    DataFileError
        For a list that is abbreviated, or contains something else than texts.
    """
    text = cell.strip()
    if text in ("[]", "()"):
        return []
    if not _LIKE_LIST.fullmatch(text):
        return None
    with suppress(DataFileError):
        texts = parse_json(text, DataFileError)
        if isinstance(texts, list) and texts and all(isinstance(item, str) for item in texts):
            return texts
    if _LIST.fullmatch(text):
        # an invalid escape, or a line break inside of quotation marks, is an error below
        with suppress(ValueError, SyntaxError):
            return [str(ast.literal_eval(item)) for item in _ITEM.findall(text)]
    raise DataFileError(
        f"{where}: expected a printed list of texts, got {ascii(text)[:60]}. Write one row per caption."
    )


def read_cells(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a table that are not blank.

    Parameters
    ----------
    path : path
        The file, for messages.
    text : str
        Content of the file.
    delimiter : str
        Separator of columns. With commas and semicolons, cells may be quoted; with others, only if a program has
        quoted them.

    Yields
    ------
    where : str
        File and line; the first line of a row of several lines.
    cells : list of str
        The row.

    Raises
    ------
    DataFileError
        For invalid quotation marks, and cells that are too long.
    """
    return _cells(path, text, delimiter, True) if delimiter in ",;" else _unquoted_cells(path, text, delimiter)


def _unquoted_cells(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the rows of a table in which quotation marks are text, unless a program has quoted cells.

    Such a program doubles quotation marks inside of cells. Line ends in cells are accepted only if the lines are not
    rows themselves: an unclosed quotation mark does not extend a cell over other lines.
    """
    rows = list(_cells(path, text, delimiter, False))
    if len({len(cells) for _, cells in rows}) > 1:
        with suppress(DataFileError):
            quoted = list(_cells(path, text, delimiter, True))
            if len({len(cells) for _, cells in quoted}) == 1:
                yield from quoted
                return
    all_quoted = bool(rows) and all(_QUOTED_CELL.fullmatch(cell.strip()) for cell in rows[0][1])
    for where, cells in rows:
        yield where, [_unquoted(cell, all_quoted) for cell in cells]


def _unquoted(cell: str, all_quoted: bool) -> str:
    """Remove the quotation marks of a cell, if all cells are quoted or it contains doubled quotation marks."""
    text = cell.strip()
    if _QUOTED_CELL.fullmatch(text) and (all_quoted or '""' in text[1:-1]):
        return text[1:-1].replace('""', '"')
    return cell


def _cause(message: str, delimiter: str, quotes: bool) -> str:
    """Return what is wrong with a row, by the message of the csv module."""
    if "end of data" in message:
        return "a quotation mark is not closed."
    if "field limit" in message:
        remedy = "Close its quotation mark, or shorten it." if quotes else "Shorten it."
        return f"expected cells of at most {csv.field_size_limit():,} characters, got a longer one. {remedy}"
    return f"expected {delimiter!r} or the end of the line after a quoted cell. Double quotation marks inside of cells."


def _cells(path: Path, text: str, delimiter: str, quotes: bool) -> Iterator[tuple[str, list[str]]]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    cells: list[str] | None = []
    while cells is not None:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataFileError(f"{where}: {_cause(str(error), delimiter, quotes)}") from error
        if cells and any(cell.strip() for cell in cells):
            yield where, cells
