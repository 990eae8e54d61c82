"""A plain folder: pictures, and a file with a caption a line in one of the usual forms.

- CSV, TSV, or columns parted by ``;`` or ``|``, with a header that names ``image``, ``caption`` and, at will,
  ``split``; Flickr8k's ``captions.txt`` and Flickr30k's ``results.csv`` are of this kind.
- JSONL: an object a line, with ``image``, ``caption`` (or ``captions``, a list) and, at will, ``split``.
- Flickr8k's ``Flickr8k.token.txt``: ``name.jpg#0``, a tab, the caption; without a header.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Literal, NamedTuple

from capgpu.data.source import Pictures, Source, by_split, split_name
from capgpu.data.text_files import DataFileError, check_text, lines_of, read_text

__all__ = ["captions_file", "folder_source"]

_IMAGE = ("image", "image_name", "file", "file_name", "filename", "name", "picture", "path", "image_id")
_CAPTION = ("caption", "comment", "text", "description", "sentence", "title")
_SPLIT = ("split", "subset", "set")
_SUFFIXES = (".csv", ".tsv", ".jsonl")
_TOKEN = re.compile(r"[^\t]+#\d+\t")
#: Pictures that are looked for to find out where they are.
_LOOKED_FOR = 100


class _Row(NamedTuple):
    where: str
    image: str
    captions: list[str]
    split: str | None


def captions_file(path: Path) -> Path:
    """Find the file of captions in a folder.

    Parameters
    ----------
    path : path
        The folder.

    Returns
    -------
    pathlib.Path
        The file named ``captions`` or ending in ``token.txt``, or the only one with the suffix ``.csv``, ``.tsv`` or
        ``.jsonl``.

    Raises
    ------
    DataFileError
        If there is none, or more than one.
    """
    files = sorted(file for file in path.iterdir() if file.is_file())
    named = [
        file
        for file in files
        if (file.stem == "captions" and file.suffix.lower() in (*_SUFFIXES, ".txt")) or file.name.endswith("token.txt")
    ]
    found = named or [file for file in files if file.suffix.lower() in _SUFFIXES]
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found) or "none"
    raise DataFileError(
        f"{path}: which file holds the captions? Found: {names}. Wanted one captions.csv, .tsv, .jsonl or .txt. Or "
        "name the file itself, of captions or of COCO's or Karpathy's form, instead of the folder."
    )


def folder_source(path: Path, folder: Path | None) -> Source:
    """Read pictures and captions.

    Parameters
    ----------
    path : path
        The file of captions.
    folder : path or None
        Where the pictures are; by default beside the file, or in a folder ``images`` or ``Images`` there.

    Returns
    -------
    Source
        With splits where the file has them.

    Raises
    ------
    DataFileError
        For a file of another form, rows with too few or too many columns, anything empty, a caption number given
        twice, pictures whose split is missing or not one: naming file and line.
    OSError
        As the system gives it.
    """
    text = read_text(path)
    first = next((line for _, line in lines_of(text) if line.strip()), "")
    if path.suffix.lower() == ".jsonl":
        rows = _jsonl_rows(path, text)
    elif _TOKEN.match(first):
        rows = _token_rows(path, text)
    else:
        rows = _column_rows(path, text, first)
    captions: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    for row in rows:
        captions.setdefault(row.image, []).extend(row.captions)
        if splits.setdefault(row.image, row.split) != row.split:
            here, above = (f"the split {split}" if split else "no split" for split in (row.split, splits[row.image]))
            raise DataFileError(f"{row.where}: {row.image} is in {here} here, in {above} above.")
    if not captions:
        raise DataFileError(f"{path} holds no captions.")
    without = [image for image, split in splits.items() if split is None]
    if without and len(without) < len(splits):
        raise DataFileError(f"{path}: {without[0]} has no split, others have one. Give every picture one, or none.")
    home = folder or _home(path.parent, list(islice(captions, _LOOKED_FOR)))
    pictures = Pictures(list(captions), list(captions.values()), [home / image for image in captions])
    named = [split for split in splits.values() if split is not None]
    return Source("folder", path, by_split(pictures, named or None))


def _home(beside: Path, images: list[str]) -> Path:
    """Find the folder that the pictures are in: the first that holds any of them."""
    places = (beside, beside / "images", beside / "Images")
    return next((place for place in places if any(os.path.isfile(place / image) for image in images)), beside)


def _column_rows(path: Path, text: str, header: str) -> Iterator[_Row]:
    delimiter = max("\t,;|", key=header.count)
    rows = _cells(path, text, delimiter)
    where, cells = next(rows, (f"{path}, line 1", []))
    names = [cell.strip().lower() for cell in cells]
    image, caption, split = _columns(where, names)
    for where, cells in rows:
        if len(cells) != len(names):
            wrong = "a column is missing" if len(cells) < len(names) else _too_many(delimiter)
            raise DataFileError(f"{where} has {len(cells)} columns, the header {len(names)}: {wrong}.")
        yield _Row(
            where,
            check_text(cells[image], f"{where}, column {names[image]}"),
            [check_text(cells[caption], f"{where}, column {names[caption]}")],
            None if split is None else split_name(cells[split], f"{where}, column {names[split]}"),
        )


def _cells(path: Path, text: str, delimiter: str) -> Iterator[tuple[str, list[str]]]:
    """Go through the rows that are not blank; one that takes several lines is known by its first."""
    # only in CSV does a quotation mark mean that commas may follow
    quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if delimiter in ",;" else csv.QUOTE_NONE
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


def _too_many(delimiter: str) -> str:
    if delimiter in ",;":
        return f'put captions that hold a {delimiter!a} in quotation marks, "like this"'
    return f"a caption must not hold a {delimiter!a}"


def _columns(where: str, names: list[str]) -> tuple[int, int, int | None]:
    """Find image, caption and split among the names of a header."""
    found = [next((names.index(name) for name in known if name in names), None) for known in (_IMAGE, _CAPTION, _SPLIT)]
    image, caption, split = found
    if image is None or caption is None:
        raise DataFileError(
            f"{where}: the header names {', '.join(map(ascii, names))[:80]}; wanted columns image and caption "
            "(and split, at will), or lines such as name.jpg#0, a tab, the caption."
        )
    return image, caption, split


def _token_rows(path: Path, text: str) -> Iterator[_Row]:
    lines: dict[str, int] = {}
    for number, line in lines_of(text):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        if not _TOKEN.match(line):
            raise DataFileError(f"{where} is {ascii(line)[:40]}; wanted name.jpg#0, a tab, the caption.")
        key, caption = line.split("\t", 1)
        if key in lines:
            raise DataFileError(f"{where} gives {key} anew; it stands in line {lines[key]} already.")
        lines[key] = number
        yield _Row(
            where, check_text(key.rpartition("#")[0], where), [check_text(caption, f"{where}, the caption")], None
        )


def _jsonl_rows(path: Path, text: str) -> Iterator[_Row]:
    for number, line in lines_of(text):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataFileError(f"{where}, column {error.colno}: no valid JSON ({error.msg}).") from error
        except (ValueError, RecursionError) as error:
            raise DataFileError(f"{where} is JSON that cannot be read: {error}.") from error
        if not isinstance(entry, dict):
            raise DataFileError(f"{where} is a {type(entry).__name__}; wanted an object with image and caption.")
        image, caption, split = (
            next((key for key in known if key in entry), None) for known in (_IMAGE, (*_CAPTION, "captions"), _SPLIT)
        )
        if image is None or caption is None:
            raise DataFileError(f"{where} has the keys {', '.join(map(ascii, entry))[:80]}; wanted image and caption.")
        own = entry[caption] if isinstance(entry[caption], list) else [entry[caption]]
        if not own:
            raise DataFileError(f"{where}: {caption} is an empty list; wanted a caption at least.")
        yield _Row(
            where,
            check_text(entry[image], f"{where}: {image}"),
            [check_text(one, f"{where}: {caption}") for one in own],
            None if split is None else split_name(check_text(entry[split], f"{where}: {split}"), f"{where}: {split}"),
        )
