"""The common form of all sources of captioned pictures."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from capgpu.data.arrays import HostArray
from capgpu.data.picture_folder import plain_name
from capgpu.data.text_files import DataFileError, check_text, is_empty

__all__ = ["UNSPLIT", "EmptyCaptions", "Pictures", "Source", "by_split", "check_distinct", "first_names", "split_name"]

#: The name of the only split of a source without splits.
UNSPLIT = "all"

#: The largest fraction of captions that may be empty.
_MAX_EMPTY = 0.5
#: Names of files in a prepared folder, which splits must not have.
_RESERVED_NAMES = frozenset({UNSPLIT, "prepared", "vocabulary", "encoder", "checked"})
_OTHER_NAMES = {"restval": "train", "training": "train", "validation": "val", "valid": "val", "dev": "val"}


@dataclass(frozen=True)
class Pictures:
    """The captioned pictures of one split.

    Attributes
    ----------
    image_ids : list of I int or str
        Distinct ids of the source.
    captions : list of I lists of str
        The raw captions of each picture. A picture without any keeps its place, since a feature file without ids has
        rows in this order.
    files : list of I paths, or None
        The picture files, which need not exist; None for a source without files.
    features : numpy.ndarray or numpy.memmap, shape (R, D), or None
        Feature vectors of these and possibly other pictures.
    rows : numpy.ndarray of int64, shape (I,), or None
        Row of each picture in `features`.
    """

    image_ids: list[int | str]
    captions: list[list[str]]
    files: list[Path] | None = None
    features: HostArray | None = None
    rows: np.ndarray[Any, np.dtype[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, chosen: Sequence[int]) -> Pictures:
        """Return the pictures at the given indices, in their order."""
        return Pictures(
            [self.image_ids[i] for i in chosen],
            [self.captions[i] for i in chosen],
            None if self.files is None else [self.files[i] for i in chosen],
            self.features,
            None if self.rows is None else self.rows[list(chosen)],
        )


@dataclass(frozen=True)
class Source:
    """Captioned pictures of one source.

    Attributes
    ----------
    kind : str
        The format: ``"coco"``, ``"karpathy"`` or ``"folder"``.
    path : pathlib.Path
        The file that was read, or the first of several.
    splits : mapping of str to Pictures
        ``"train"``, ``"val"``, ...; or all pictures in the split `UNSPLIT`.
    notes : tuple of str
        How the file was interpreted, for the user.
    more : tuple of pathlib.Path
        Further files that were read.
    """

    kind: str
    path: Path
    splits: Mapping[str, Pictures]
    notes: tuple[str, ...] = ()
    more: tuple[Path, ...] = ()


class EmptyCaptions:
    """Counts the captions of a file that are missing or empty, which are omitted.

    Parameters
    ----------
    path : path
        The file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._total = self._count = 0
        self._first = ""

    def text(self, value: object, where: str) -> list[str]:
        """Return a list of the caption, which is empty if `value` is None, NaN (of pandas) or an empty text.

        Parameters
        ----------
        value : object
            The caption in the file.
        where : str
            File and position, for the message.

        Raises
        ------
        DataFileError
            For anything but a text.
        """
        if is_empty(value):
            self.count(where)
            return []
        self._total += 1
        return [check_text(value, where)]

    def count(self, where: str) -> None:
        """Count a caption that is missing at a position."""
        self._total += 1
        self._count += 1
        self._first = self._first or where.removeprefix(str(self._path)).lstrip(":, ")

    def notes(self) -> list[str]:
        """Return what to tell the user.

        Raises
        ------
        DataFileError
            If more than half of the captions are missing or empty.
        """
        if self._count > _MAX_EMPTY * self._total:
            raise DataFileError(
                f"{self._path}: expected captions, got empty ones for {self._count:,} of {self._total:,}, the first in "
                f"{self._first}. Write texts, or remove the entries."
            )
        return [f"captions without text, omitted: {self._count:,}, the first in {self._first}"] if self._count else []


def split_name(name: str, where: str) -> str:
    """Return the normalized name of a split.

    Parameters
    ----------
    name : str
        Name in the source: ``"Validation"`` becomes ``"val"``, Karpathy's ``"restval"`` becomes ``"train"``.
    where : str
        File and position, for the message.

    Returns
    -------
    str
        A name that can be part of a file name.

    Raises
    ------
    DataFileError
        For an invalid name.
    """
    plain = name.strip().lower()
    plain = _OTHER_NAMES.get(plain, plain)
    if plain in _RESERVED_NAMES or not re.fullmatch("[a-z][a-z0-9_]{0,30}", plain):
        raise DataFileError(f"{where}: expected a split such as train, val or test, got {ascii(name)[:40]}.")
    return plain


def first_names(files: Sequence[Path]) -> list[int]:
    """Find paths of the same file.

    Parameters
    ----------
    files : sequence of N paths
        The files need not exist.

    Returns
    -------
    list of N int
        Index of the first path of the same file, also through links, for each path.
    """
    first: dict[object, int] = {}
    indices = []
    for index, file in enumerate(files):
        key: object = plain_name(str(file))
        try:
            stat = file.stat()
            key = (stat.st_dev, stat.st_ino) if stat.st_ino else key
        except (OSError, ValueError):
            pass
        indices.append(first.setdefault(key, index))
    return indices


def check_distinct(files: Sequence[Path], name: str) -> None:
    """Reject images of the JSON file `name` with the same file, which could be in both training and test data."""
    first: dict[str, int] = {}
    for index, file in enumerate(files):
        other = first.setdefault(plain_name(str(file)), index)
        if other != index:
            raise DataFileError(
                f"{name}: expected distinct files, got {file} for images[{other}] and images[{index}]. Remove one of "
                "the two."
            )


def by_split(pictures: Pictures, splits: Sequence[str] | None) -> dict[str, Pictures]:
    """Group pictures by the split of each; all are in `UNSPLIT` if `splits` is None."""
    if splits is None:
        return {UNSPLIT: pictures}
    indices: dict[str, list[int]] = {}
    for index, name in enumerate(splits):
        indices.setdefault(name, []).append(index)
    return {name: pictures.take(chosen) for name, chosen in indices.items()}
