"""A plain folder: pictures, and a file with a caption a line in one of the usual forms.

- CSV, TSV, or columns parted by ``;`` or ``|``, with a header that names ``image``, ``caption`` and, at will,
  ``split``; Flickr8k's ``captions.txt`` and Flickr30k's ``results.csv`` are of this kind. There may be several columns
  of captions (``caption_0``, ``caption_1``, or two named ``caption``), and lists that were printed into a cell.
- JSONL: an object a line, with ``image``, ``caption`` (or ``captions``, a list) and, at will, ``split``.
- Flickr8k's ``Flickr8k.token.txt``: ``name.jpg#0``, a tab, the caption; without a header.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from capgpu.data.captions_table import (
    CAPTION_NAMES,
    choose_columns,
    image_names,
    is_caption,
    printed_list,
    read_cells,
)
from capgpu.data.source import Pictures, Source, by_split, first_names, plain_name, split_name
from capgpu.data.text_files import DataFileError, check_text, lines_of, read_text

__all__ = ["captions_file", "folder_source"]

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
    notes: list[str] = []
    if path.suffix.lower() == ".jsonl":
        rows = _jsonl_rows(path, text, folder)
    elif _TOKEN.match(first):
        rows = _token_rows(path, text)
    else:
        rows = _column_rows(path, text, first, folder, notes)
    names: dict[str, str] = {}  # the first of those that mean one file
    captions: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    for row in rows:
        image = names.setdefault(plain_name(row.image), row.image)
        captions.setdefault(image, []).extend(row.captions)
        if splits.setdefault(image, row.split) != row.split:
            here, above = (f"the split {split}" if split else "no split" for split in (row.split, splits[image]))
            raise DataFileError(f"{row.where}: {row.image} is in {here} here, in {above} above.")
    if not captions:
        raise DataFileError(f"{path} holds no captions.")
    without = [image for image, split in splits.items() if split is None]
    if without and len(without) < len(splits):
        raise DataFileError(f"{path}: {without[0]} has no split, others have one. Give every picture one, or none.")
    home = folder or _home(path.parent, list(islice(captions, _LOOKED_FOR)))
    _merge_links(path, home, captions, splits, notes)
    pictures = Pictures(list(captions), list(captions.values()), [home / image for image in captions])
    named = [split for split in splits.values() if split is not None]
    return Source("folder", path, by_split(pictures, named or None), tuple(notes))


def _merge_links(
    path: Path, home: Path, captions: dict[str, list[str]], splits: dict[str, str | None], notes: list[str]
) -> None:
    """Make one picture of names that lead to one file."""
    images = list(captions)
    merged = [
        (image, images[k]) for image, k in zip(images, first_names([home / image for image in images]), strict=True)
    ]
    for image, first in merged:
        if image != first:
            if splits[image] != splits[first]:
                raise DataFileError(
                    f"{path}: {first} and {image} are one file, in the splits {splits[first]} and {splits[image]}. "
                    "Put both names in one split."
                )
            captions[first] += captions.pop(image)
            del splits[image]
    others = [pair for pair in merged if pair[0] != pair[1]]
    if others:
        notes.append(
            f"names of pictures that have another name, too, and count once: {len(others):,}, the first {others[0][0]}"
        )


def _home(beside: Path, images: list[str]) -> Path:
    """Find the folder that the pictures are in: the first that holds any of them."""
    return next((place for place in _places(beside) if any(_is_file(place / image) for image in images)), beside)


def _places(beside: Path) -> tuple[Path, ...]:
    return beside, beside / "images", beside / "Images"


def _is_file(path: Path) -> bool:
    try:
        return os.path.isfile(path)
    except ValueError:  # a name with NUL
        return False


def _count_files(path: Path, folder: Path | None, images: Iterable[str]) -> int:
    """Count the names, of the first of some, that are of files."""
    places = (folder,) if folder else _places(path.parent)
    some = [image.strip() for image in islice(images, _LOOKED_FOR)]
    return sum(any(_is_file(place / image) for place in places) for image in some if image)


def _column_rows(path: Path, text: str, header: str, folder: Path | None, notes: list[str]) -> Iterator[_Row]:
    delimiter = max("\t,;|", key=header.count)
    rows = read_cells(path, text, delimiter)
    where, cells = next(rows, (f"{path}, line 1", []))
    names = [cell.strip().lower() for cell in cells]
    several = len(image_names(names)) > 1
    kept = list(rows) if several else []  # which of several columns names pictures that are there?

    def found(column: int) -> int:
        return _count_files(path, folder, (cells[column] for _, cells in kept if column < len(cells)))

    columns = choose_columns(where, names, found)
    if columns.note:
        notes.append(columns.note)
    lists = 0
    for where, cells in kept if several else rows:
        if len(cells) != len(names):
            wrong = "a column is missing" if len(cells) < len(names) else _too_many(delimiter)
            raise DataFileError(f"{where} has {len(cells)} columns, the header {len(names)}: {wrong}.")
        captions: list[str] = []
        # of several captions some may be missing
        filled = [column for column in columns.captions if cells[column].strip()] or columns.captions[:1]
        for column in filled:
            place = f"{where}, column {names[column]}"
            printed = printed_list(cells[column], place)
            lists += printed is not None
            captions += [check_text(own, place) for own in ([cells[column]] if printed is None else printed)]
        yield _Row(
            where,
            check_text(cells[columns.image], f"{where}, column {names[columns.image]}"),
            captions,
            None
            if columns.split is None
            else split_name(cells[columns.split], f"{where}, column {names[columns.split]}"),
        )
    if lists:
        notes.append(f"cells that hold a printed list, each text of which is a caption: {lists:,}")


def _too_many(delimiter: str) -> str:
    if delimiter in ",;":
        return f'put captions that hold a {delimiter!a} in quotation marks, "like this"'
    return f"a caption must not hold a {delimiter!a}"


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


class _Entry(dict[str, Any]):
    """An object of JSON that knows the keys that stand in it several times."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _jsonl_rows(path: Path, text: str, folder: Path | None) -> Iterator[_Row]:
    entries = list(_jsonl_entries(path, text))
    keys = image_names({key for _, entry in entries for key in entry})
    if len(keys) > 1:
        # of several keys the one whose pictures are there
        counts = {
            key: _count_files(path, folder, (entry[key] for _, entry in entries if isinstance(entry.get(key), str)))
            for key in keys
        }
        keys.sort(key=lambda key: -counts[key])
    for where, entry in entries:
        image = next((key for key in keys if key in entry), None)
        kind = next((kind for kind in CAPTION_NAMES if any(is_caption(key, kind) for key in entry)), None)
        split = next((key for key in _SPLIT if key in entry), None)
        if image is None or kind is None:
            raise DataFileError(f"{where} has the keys {', '.join(map(ascii, entry))[:80]}; wanted image and caption.")
        for key in (image, split):
            if key is not None and sum(own == key for own, _ in entry.pairs) > 1:
                raise DataFileError(f"{where} has the key {key!a} twice. Take one of the two out.")
        captions: list[str] = []
        for key, value in entry.pairs:
            if is_caption(key, kind):
                own = value if isinstance(value, list) else [value]
                if isinstance(value, str):
                    own = printed_list(value, f"{where}: {key}") or own
                if not own:
                    raise DataFileError(f"{where}: {key} is an empty list; wanted a caption at least.")
                new = [check_text(one, f"{where}: {key}") for one in own]
                # a caption may stand beside the list that holds it
                captions += [one for one in new if one not in captions] if captions else new
        yield _Row(
            where,
            check_text(entry[image], f"{where}: {image}"),
            captions,
            None if split is None else split_name(check_text(entry[split], f"{where}: {split}"), f"{where}: {split}"),
        )


def _jsonl_entries(path: Path, text: str) -> Iterator[tuple[str, _Entry]]:
    for number, line in lines_of(text):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        try:
            entry = json.loads(line, object_pairs_hook=_Entry)
        except json.JSONDecodeError as error:
            raise DataFileError(f"{where}, column {error.colno}: no valid JSON ({error.msg}).") from error
        except (ValueError, RecursionError) as error:
            raise DataFileError(f"{where} is JSON that cannot be read: {error}.") from error
        if not isinstance(entry, _Entry):
            raise DataFileError(f"{where} is a {type(entry).__name__}; wanted an object with image and caption.")
        yield where, entry
