"""Tables of captions: cells, the columns of pictures and captions, and lists that were printed into a cell."""

from __future__ import annotations

import ast
import csv
import io
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from capgpu.data.text_files import DataFileError

__all__ = ["CAPTION_NAMES", "Columns", "choose_columns", "image_names", "is_caption", "printed_list", "read_cells"]

#: Names of a column of pictures; of several the one whose pictures are there, then the first of these.
_IMAGE = (
    *("image", "image_name", "image_path", "image_file", "img", "file", "file_name", "filename", "file_path"),
    *("filepath", "picture", "path", "name", "image_id"),
)
#: Names of a column of captions, the first that is there; each may be in the plural, and numbered.
CAPTION_NAMES = ("caption", "comment", "text", "description", "sentence", "title")
_SPLIT = ("split", "subset", "set")
_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
#: A cell in quotation marks, as programs write it.
_QUOTED_CELL = re.compile('"(?:[^"]|"")*"')
_ITEM = re.compile(_QUOTED, re.DOTALL)
#: What Python, JSON (with commas) and NumPy (without) print for a list or a tuple of texts.
_LIST = re.compile(rf"[\[(]\s*{_QUOTED}(?:(?:\s*,\s*|\s+){_QUOTED})*\s*,?\s*[\])]", re.DOTALL)

#: What looks like one, be it read or not.
_LIKE_LIST = re.compile(r"[\[(]\s*['\"].*(?:['\"]|None|nan|null|\.\.\.)\s*,?\s*[\])]", re.DOTALL)


@dataclass(frozen=True)
class Columns:
    """The columns of a table that are used.

    Attributes
    ----------
    image : int
        That of the pictures.
    captions : list of int
        Those of captions, one at least.
    split : int or None
        That of the splits.
    note : str or None
        Which are used and which are not, where there are others.
    """

    image: int
    captions: list[int]
    split: int | None
    note: str | None


def is_caption(name: str, kind: str) -> bool:
    """Tell whether a column's name is that of captions of a kind, one of `CAPTION_NAMES`."""
    return re.fullmatch(rf"{kind}s?(?:[ _.-]?\d+)?", name) is not None


def image_names(names: Iterable[str]) -> list[str]:
    """Return those of some names that may be of a column of pictures, the likeliest first."""
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
        Tells how many of the first pictures that a column names are there.

    Returns
    -------
    Columns
        The choice.

    Raises
    ------
    DataFileError
        If there is no column of pictures or none of captions, or two columns of pictures or of splits have one name.
    """
    images = [names.index(name) for name in image_names(names)]
    kind = next((kind for kind in CAPTION_NAMES if any(is_caption(name, kind) for name in names)), None)
    if not images or kind is None:
        raise DataFileError(
            f"{where}: the header names {', '.join(map(ascii, names))[:80]}; wanted columns image and caption "
            "(and split, at will), or lines such as name.jpg#0, a tab, the caption."
        )
    image = max(images, key=found) if len(images) > 1 else images[0]  # the first of those with as many
    captions = [column for column, name in enumerate(names) if is_caption(name, kind)]
    split = next((names.index(name) for name in _SPLIT if name in names), None)
    for column in (image, split):
        if column is not None and names.count(names[column]) > 1:
            raise DataFileError(f"{where}: two columns are named {names[column]!a}. Give one of them another name.")
    used = {image, *captions, split}
    others = [name for column, name in enumerate(names) if column not in used]
    note = None
    if others or len(captions) > 1:
        note = f"pictures from the column {names[image]}, captions from {', '.join(names[own] for own in captions)}"
        note += f"; not used: {', '.join(map(ascii, others))}" if others else ""
    return Columns(image, captions, split, note)


def printed_list(cell: str, where: str) -> list[str] | None:
    """Read a list of texts that Python, JSON or NumPy has printed into a cell.

    Parameters
    ----------
    cell : str
        Such as ``['one', 'two']``.
    where : str
        File and place, for the message.

    Returns
    -------
    list of str or None
        The texts; None for a cell that holds no such list.

    Raises
    ------
    DataFileError
        For what looks like a list, but holds nothing or something else than texts, or was printed in part.
    """
    text = cell.strip()
    if text in ("[]", "()"):
        raise DataFileError(f"{where} is an empty list; wanted a caption at least. Take the row out.")
    if not _LIKE_LIST.fullmatch(text):
        return None
    with suppress(ValueError, RecursionError):
        texts = json.loads(text)
        if isinstance(texts, list) and texts and all(isinstance(own, str) for own in texts):
            return texts
    if _LIST.fullmatch(text):
        # an escape that is none, or a line break inside of the quotation marks, is refused below
        with suppress(ValueError, SyntaxError):
            return [str(ast.literal_eval(item)) for item in _ITEM.findall(text)]
    raise DataFileError(
        f"{where} looks like a printed list, but is none of texts: {ascii(text)[:60]}. Write a row for each caption."
    )


def read_cells(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Go through the rows of a table that are not blank.

    Parameters
    ----------
    path : path
        The file, for messages.
    text : str
        What it holds.
    delimiter : str
        What parts columns. Only with commas and semicolons does a quotation mark mean by itself that one may follow.

    Yields
    ------
    where : str
        File and line; the first of a row that takes several.
    cells : list of str
        The row.

    Raises
    ------
    DataFileError
        For quotation marks that cannot be right.
    """
    return _cells(path, text, delimiter, True) if delimiter in ",;" else _unquoted_cells(path, text, delimiter)


def _unquoted_cells(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Go through the rows of a table in which a quotation mark means nothing, unless a program has quoted cells.

    Such a program writes a mark inside of a cell twice. Line ends in cells are read only where the lines by themselves
    are no rows: a mark that somebody forgot to close takes no other line into its cell.
    """
    rows = list(_cells(path, text, delimiter, False))
    if len({len(cells) for _, cells in rows}) > 1:
        with suppress(DataFileError):
            quoted = list(_cells(path, text, delimiter, True))
            if len({len(cells) for _, cells in quoted}) == 1:
                yield from quoted
                return
    everything = bool(rows) and all(_QUOTED_CELL.fullmatch(cell.strip()) for cell in rows[0][1])
    for where, cells in rows:
        yield where, [_unquoted(cell, everything) for cell in cells]


def _unquoted(cell: str, everything: bool) -> str:
    """Take off the quotation marks of a cell, of all or of those that show that a program has put them there."""
    text = cell.strip()
    if _QUOTED_CELL.fullmatch(text) and (everything or '""' in text[1:-1]):
        return text[1:-1].replace('""', '"')
    return cell


def _cells(path: Path, text: str, delimiter: str, quotes: bool) -> Iterator[tuple[str, list[str]]]:
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if quotes else csv.QUOTE_NONE
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, quoting=quoting, strict=True)
    cells: list[str] | None = []
    while cells is not None:
        where = f"{path}, line {reader.line_num + 1}"
        try:
            cells = next(reader, None)
        except csv.Error as error:
            # the csv module's words for a quotation mark that is never closed
            cause = "a quotation mark is opened and never closed" if "end of data" in str(error) else error
            raise DataFileError(f"{where}: {cause}.") from error
        if cells and any(cell.strip() for cell in cells):
            yield where, cells
