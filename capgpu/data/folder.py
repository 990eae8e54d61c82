"""A plain folder: pictures, and a file of captions in one of the common formats.

- CSV, TSV, or columns separated by ``;`` or ``|``, with a header that contains ``image``, ``caption`` and optionally
  ``split``, such as Flickr8k's ``captions.txt`` and Flickr30k's ``results.csv``. There may be several columns of
  captions (``caption_0``, ``caption_1``, or two named ``caption``), and lists printed into cells.
- JSONL: one object per line, with ``image``, ``caption`` (or ``captions``, a list) and optionally ``split``.
- Flickr8k's ``Flickr8k.token.txt``: ``name.jpg#0``, a tab, the caption; without a header.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import partial
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
from capgpu.data.picture_folder import find_files, is_companion, is_file, plain_name, similar_files
from capgpu.data.source import EmptyCaptions, Pictures, Source, by_split, first_names, split_name
from capgpu.data.split_lists import listed_splits
from capgpu.data.text_files import DataFileError, check_text, lines_of, read_text
from capgpu.file_formats.json_text import parse_json
from capgpu.visible_text import clipped

__all__ = [
    "captions_file",
    "captions_files",
    "find_picture_folder",
    "folder_source",
    "fullest_folder",
    "has_usual_name",
    "only_folder",
    "picture_siblings",
]

_SPLIT = ("split", "subset", "set")
_SUFFIXES = (".csv", ".tsv", ".jsonl")
#: Names of folders of pictures.
_OF_PICTURES = re.compile(r"flicke?r\w*[-_ ](?:dataset|images)|images?|pictures?|photos?", re.IGNORECASE)
_NUMBERED = re.compile(r"\s*(\d+)\s+(\S.*)", re.DOTALL)
_TOKEN = re.compile(r"[^\t]+#\d+\t")
#: Number of pictures searched for to find their folder.
_N_SEARCHED = 100


class _Row(NamedTuple):
    where: str
    image: str
    captions: list[str]
    split: str | None


def captions_file(path: Path) -> Path:
    """Return the file of captions in a folder.

    Parameters
    ----------
    path : path
        The folder.

    Returns
    -------
    pathlib.Path
        The file named ``captions`` or ``metadata`` or ending in ``token.txt`` or ``.token``, or the only one with the
        suffix ``.csv``, ``.tsv`` or
        ``.jsonl``.

    Raises
    ------
    DataFileError
        If there is none, or more than one.
    """
    found = captions_files(path)
    if len(found) == 1:
        return found[0]
    names = ", ".join(file.name for file in found) or "none"
    raise DataFileError(
        f"{path}: expected one file of captions (captions.csv, .tsv, .jsonl or .txt), got {names}. Or name the file "
        "itself, of captions or in COCO's or Karpathy's format, instead of the folder."
    )


def captions_files(path: Path) -> list[Path]:
    """Return the files of captions in a folder: those with usual names, or else those with usual suffixes."""
    files = sorted(file for file in path.iterdir() if file.is_file() and not is_companion(file.name))
    named = [file for file in files if has_usual_name(file)]
    # lemmas are not captions as people write them
    named = [file for file in named if "lemma" not in file.name] or named
    return named or [file for file in files if file.suffix.lower() in _SUFFIXES]


def has_usual_name(file: Path) -> bool:
    """Return whether a file is named as files of captions are."""
    usual = file.stem in ("captions", "metadata") and file.suffix.lower() in (*_SUFFIXES, ".txt")
    return usual or file.name.endswith(("token.txt", ".token"))


def folder_source(path: Path, folder: Path | None, within: Path | None = None) -> Source:
    """Read pictures and captions.

    Parameters
    ----------
    path : path
        The file of captions.
    folder : path or None
        The folder of the pictures; by default that of the file, a folder ``images`` or ``Images`` in it, or else the
        folder in it, or one named as pictures beside it, that contains most of the first pictures.
    within : path, optional
        The folder that the user named, if any: pictures outside of it are refused.

    Returns
    -------
    Source
        With splits if the file has them. Empty captions are omitted.

    Raises
    ------
    DataFileError
        For a file of another format, rows with too few or too many columns, mostly empty captions, a caption number
        that occurs twice, and pictures whose split is missing or ambiguous.
    OSError
        If the file cannot be read.
    """
    text = read_text(path)
    first = next((line for _, line in lines_of(text) if line.strip()), "")
    notes: list[str] = []
    empty = EmptyCaptions(path)
    if path.suffix.lower() == ".jsonl":
        rows = _jsonl_rows(path, text, folder, empty)
    elif _TOKEN.match(first):
        rows = _token_rows(path, text, empty)
    else:
        rows = _column_rows(path, text, first, folder, notes, empty)
    names: dict[str, str] = {}  # the first name of each file
    captions: dict[str, list[str]] = {}
    splits: dict[str, str | None] = {}
    for row in rows:
        image = names.setdefault(plain_name(row.image), row.image)
        captions.setdefault(image, []).extend(row.captions)
        if splits.setdefault(image, row.split) != row.split:
            found, first = (f"the split {split}" if split else "no split" for split in (row.split, splits[image]))
            raise DataFileError(f"{row.where}: expected {first} of {row.image}, as in an earlier row, got {found}.")
    if not captions:
        raise DataFileError(f"{path}: expected at least one caption, got none.")
    notes += empty.notes()
    uncaptioned = [image for image, texts in captions.items() if not texts]
    if uncaptioned:
        notes.append(f"pictures without captions, omitted: {len(uncaptioned):,}, the first {uncaptioned[0]}")
    without = [image for image, split in splits.items() if split is None]
    if without and len(without) < len(splits):
        raise DataFileError(
            f"{path}: expected a split for {without[0]}, as for other pictures, got none. Give every picture a split, "
            "or none."
        )
    if not any(splits.values()) and (listed := listed_splits(path.parent, captions)) is not None:
        splits |= listed[0]
        notes += listed[1]
        unlisted = [image for image, split in splits.items() if split is None]
        if unlisted:
            notes.append(f"pictures in none of the lists, omitted: {len(unlisted):,}, the first {unlisted[0]}")
        for image in unlisted:
            del splits[image], captions[image]
    location = folder or find_picture_folder(path, list(islice(captions, _N_SEARCHED)))
    if location not in (folder, *_candidate_folders(path.parent)):
        notes.append(f"pictures are in {location}")
    located, differences = find_files(location, list(captions), str(path), within)
    notes += differences
    files = dict(zip(captions, located, strict=True))
    _merge_links(path, files, captions, splits, notes)
    pictures = Pictures(list(captions), list(captions.values()), [files[image] for image in captions])
    named = [split for split in splits.values() if split is not None]
    return Source("folder", path, by_split(pictures, named or None), tuple(notes))


def _merge_links(
    path: Path,
    files: dict[str, Path],
    captions: dict[str, list[str]],
    splits: dict[str, str | None],
    notes: list[str],
) -> None:
    """Merge pictures whose names are those of the same file."""
    images = list(captions)
    merged = [(image, images[k]) for image, k in zip(images, first_names(list(files.values())), strict=True)]
    for image, first in merged:
        if image != first:
            if splits[image] != splits[first]:
                raise DataFileError(
                    f"{path}: expected one split for {first} and {image}, which are the same file, got {splits[first]} "
                    f"and {splits[image]}."
                )
            captions[first] += captions.pop(image)
            del splits[image]
    others = [pair for pair in merged if pair[0] != pair[1]]
    if others:
        notes.append(
            f"names of pictures that are those of other pictures' files, merged: {len(others):,}, the first "
            f"{others[0][0]}"
        )


def find_picture_folder(path: Path, images: list[str]) -> Path:
    """Return the folder of pictures that belong to a file of captions.

    Parameters
    ----------
    path : path
        The file of captions.
    images : list of str
        Names of pictures.

    Returns
    -------
    pathlib.Path
        The folder of the file, or ``images`` or ``Images`` in it, if it contains any of the pictures; otherwise a
        folder in it that is named as pictures and contains nearly all, the folder in it with the most of them, or one
        beside it that is named as pictures and contains nearly all; or the folder of the file.

    Raises
    ------
    DataFileError
        If two folders contain pictures of the same names.
    """
    beside = path.parent
    usual = _candidate_folders(beside)
    return (
        next((folder for folder in usual if _count_in(folder, images)), None)
        or only_folder(path, _named_as_pictures(beside), images, 0.9)
        or only_folder(path, _folders(beside), images)
        or only_folder(path, picture_siblings(beside), images, 0.9)
        or beside
    )


def picture_siblings(folder: Path) -> list[Path]:
    """Return the folders beside a folder whose names are those of folders of pictures, and such folders in them.

    In a folder of any other name, pictures of the same names may belong to another data set.
    """
    beside = _named_as_pictures(folder.absolute().parent)
    return [entry for outer in beside for entry in (outer, *_named_as_pictures(outer))]


def _named_as_pictures(folder: Path) -> list[Path]:
    return [entry for entry in _folders(folder) if _OF_PICTURES.fullmatch(entry.name)]


def fullest_folder(folders: Sequence[Path], images: Iterable[str], least: float = 0) -> Path | None:
    """Return the folder with the most of the first pictures, of equal ones the first; None if none has any.

    It must contain at least the fraction `least` of them.
    """
    first = list(islice(images, _N_SEARCHED))
    location = max(folders, key=lambda folder: _count_in(folder, first), default=None)
    count = 0 if location is None else _count_in(location, first)
    return location if count and count >= least * len(first) else None


def only_folder(path: Path, folders: Sequence[Path], images: Iterable[str], least: float = 0) -> Path | None:
    """Do as `fullest_folder`, and raise DataFileError if another folder contains more than half as many pictures.

    Those of the same names may be others, such as pictures of another split. `path` is the file of captions.
    """
    first = list(islice(images, _N_SEARCHED))
    location = fullest_folder(folders, first, least)
    if location is not None:
        half = _count_in(location, first) / 2
        for folder in folders:
            if _count_in(folder, first) > half and not folder.samefile(location):
                raise DataFileError(
                    f"{path}: expected its pictures in one folder, got pictures of the same names in {location} and "
                    f"{folder}. Name the folder of the pictures (--images)."
                )
    return location


def _folders(path: Path) -> list[Path]:
    try:
        entries = sorted(path.iterdir())
    except OSError:
        return []
    return [entry for entry in entries if entry.is_dir() and not is_companion(entry.name)][:_N_SEARCHED]


def _candidate_folders(beside: Path) -> tuple[Path, ...]:
    return beside, beside / "images", beside / "Images"


def _count_in(folder: Path, images: Iterable[str]) -> int:
    return sum(is_file(folder / image) for image in images)


def _count_files(path: Path, folder: Path | None, images: Iterable[str]) -> int:
    """Count how many of the first names are those of files."""
    candidates = (folder,) if folder else _candidate_folders(path.parent)
    names = [name for image in islice(images, _N_SEARCHED) if (name := image.strip())]
    exact = sum(any(is_file(candidate / name) for candidate in candidates) for name in names)
    return exact or sum(map(is_file, similar_files(folder or path.parent, names, ())[0]))


def _column_rows(
    path: Path, text: str, header: str, folder: Path | None, notes: list[str], empty: EmptyCaptions
) -> Iterator[_Row]:
    delimiter = max("\t,;|", key=header.count)
    rows = read_cells(path, text, delimiter)
    where, cells = next(rows, (f"{path}, line 1", []))
    names = [cell.strip().lower() for cell in cells]
    several = len(image_names(names)) > 1
    kept = list(rows) if several else []  # to find the column whose pictures exist

    def found(column: int) -> int:
        return _count_files(path, folder, (cells[column] for _, cells in kept if column < len(cells)))

    columns = choose_columns(where, names, found)
    if columns.note:
        notes.append(columns.note)
    lists = repaired = 0
    for where, cells in kept if several else rows:
        if delimiter == "|" and len(cells) == 2 and len(names) == 3 and (numbered := _NUMBERED.fullmatch(cells[1])):
            # Flickr30k's results.csv has a row without the delimiter between the number and the caption
            cells = [cells[0], *numbered.groups()]
            repaired += 1
        if len(cells) != len(names):
            cause = "a column is missing" if len(cells) < len(names) else _too_many(delimiter)
            raise DataFileError(f"{where}: expected {len(names)} columns, as in the header, got {len(cells)}: {cause}.")
        captions: list[str] = []
        # some of several captions may be missing
        filled = [column for column in columns.captions if cells[column].strip()]
        if not filled:
            empty.count(f"{where}, column {names[columns.captions[0]]}")
        for column in filled:
            position = f"{where}, column {names[column]}"
            printed = printed_list(cells[column], position)
            lists += printed is not None
            if printed == []:
                empty.count(position)
            for text in [cells[column]] if printed is None else printed:
                captions += empty.text(text, position)
        yield _Row(
            where,
            check_text(cells[columns.image], f"{where}, column {names[columns.image]}"),
            captions,
            None
            if columns.split is None
            else split_name(cells[columns.split], f"{where}, column {names[columns.split]}"),
        )
    if repaired:
        notes.append(f"rows without a delimiter behind the number of the caption, accepted: {repaired:,}")
    if lists:
        notes.append(f"cells with a printed list of captions: {lists:,}")


def _too_many(delimiter: str) -> str:
    if delimiter in ",;":
        return f'put captions that contain {delimiter!a} in quotation marks, "like this"'
    return f"a caption must not contain {delimiter!a}"


def _token_rows(path: Path, text: str, empty: EmptyCaptions) -> Iterator[_Row]:
    lines: dict[str, int] = {}
    for number, line in lines_of(text):
        if not line.strip():
            continue
        where = f"{path}, line {number}"
        if not _TOKEN.match(line):
            raise DataFileError(f"{where}: expected name.jpg#0, a tab, the caption, got {ascii(line)[:40]}.")
        key, caption = line.split("\t", 1)
        if key in lines:
            raise DataFileError(f"{where}: expected each caption once, got {key}, as in line {lines[key]}.")
        lines[key] = number
        yield _Row(where, check_text(key.rpartition("#")[0], where), empty.text(caption, f"{where}, the caption"), None)


class _Entry(dict[str, Any]):
    """A JSON object that keeps duplicate keys."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__(pairs)
        self.pairs = pairs


def _jsonl_rows(path: Path, text: str, folder: Path | None, empty: EmptyCaptions) -> Iterator[_Row]:
    entries = list(_jsonl_entries(path, text))
    keys = image_names({key for _, entry in entries for key in entry})
    if len(keys) > 1:
        # of several keys the one whose pictures exist
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
            raise DataFileError(
                f"{where}: expected the keys image and caption, got {clipped(', '.join(map(ascii, entry)))}."
            )
        for key in (image, split):
            if key is not None and sum(other == key for other, _ in entry.pairs) > 1:
                raise DataFileError(f"{where}: expected the key {key!a} once, got it twice. Remove one of the two.")
        captions: list[str] = []
        for key, value in entry.pairs:
            if is_caption(key, kind):
                texts = value if isinstance(value, list) else [value]
                printed = printed_list(value, f"{where}: {key}") if isinstance(value, str) else None
                texts = texts if printed is None else printed
                if not texts:
                    empty.count(f"{where}: {key}")
                new = [caption for text in texts for caption in empty.text(text, f"{where}: {key}")]
                # a caption may also be part of the list
                captions += [text for text in new if text not in captions] if captions else new
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
        entry = parse_json(line, partial(_not_an_object, where), partial(_invalid_line, where), _Entry)
        if not isinstance(entry, _Entry):
            raise DataFileError(f"{where}: expected an object with image and caption, got {type(entry).__name__}.")
        yield where, entry


def _not_an_object(where: str, cause: str) -> DataFileError:
    return DataFileError(f"{where}: {cause}.")


def _invalid_line(where: str, error: json.JSONDecodeError) -> DataFileError:
    return DataFileError(f"{where}, column {error.colno}: expected valid JSON, got {error.msg}.")
