"""What every source of captioned pictures gives, whatever file it comes from."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from capgpu.data.arrays import HostArray
from capgpu.data.text_files import DataFileError

__all__ = ["UNSPLIT", "Pictures", "Source", "by_split", "check_distinct", "first_names", "plain_name", "split_name"]

#: The name of the one split of a source that does not divide its pictures.
UNSPLIT = "all"

#: The files of a prepared folder that are no split's.
_TAKEN = frozenset({UNSPLIT, "prepared", "vocabulary", "encoder", "checked"})
_OTHER_NAMES = {"restval": "train", "training": "train", "validation": "val", "valid": "val", "dev": "val"}


@dataclass(frozen=True)
class Pictures:
    """The captioned pictures of one split.

    Attributes
    ----------
    image_ids : list of I int or str
        As the source names them; each once.
    captions : list of I lists of str
        The raw captions of each picture, one at least.
    files : list of I paths, or None
        The picture files, which need not be there; None where the source names none.
    features : numpy.ndarray or numpy.memmap, shape (R, D), or None
        Feature vectors, of these pictures and maybe others.
    rows : numpy.ndarray of int64, shape (I,), or None
        The row of `features` of each picture.
    """

    image_ids: list[int | str]
    captions: list[list[str]]
    files: list[Path] | None = None
    features: HostArray | None = None
    rows: np.ndarray[Any, np.dtype[np.int64]] | None = None

    def __len__(self) -> int:
        return len(self.image_ids)

    def take(self, chosen: Sequence[int]) -> Pictures:
        """Take some of the pictures, in the order given."""
        return Pictures(
            [self.image_ids[i] for i in chosen],
            [self.captions[i] for i in chosen],
            None if self.files is None else [self.files[i] for i in chosen],
            self.features,
            None if self.rows is None else self.rows[list(chosen)],
        )


@dataclass(frozen=True)
class Source:
    """Captioned pictures from one place.

    Attributes
    ----------
    kind : str
        What the place is: ``"coco"``, ``"karpathy"`` or ``"folder"``.
    path : pathlib.Path
        The file that was read.
    splits : mapping of str to Pictures
        ``"train"``, ``"val"``, ...; or all pictures as the split `UNSPLIT`.
    notes : tuple of str
        What its reader should know of how the place was understood.
    """

    kind: str
    path: Path
    splits: Mapping[str, Pictures]
    notes: tuple[str, ...] = ()


def split_name(name: str, where: str) -> str:
    """Bring the name of a split to the form used here.

    Parameters
    ----------
    name : str
        As the source has it: ``"Validation"`` is ``"val"``, Karpathy's ``"restval"`` belongs to ``"train"``.
    where : str
        File and place, for the message.

    Returns
    -------
    str
        The name, fit to be part of a file's.

    Raises
    ------
    DataFileError
        For a name that is none.
    """
    plain = name.strip().lower()
    plain = _OTHER_NAMES.get(plain, plain)
    if plain in _TAKEN or not re.fullmatch("[a-z][a-z0-9_]{0,30}", plain):
        raise DataFileError(f"{where} is {ascii(name)[:40]}; wanted a split such as train, val or test.")
    return plain


def plain_name(name: str) -> str:
    """Take out of a file's name what changes nothing: ``./a//b.jpg`` is ``a/b.jpg``."""
    return ("/" if name.startswith("/") else "") + "/".join(part for part in name.split("/") if part not in ("", "."))


def first_names(files: Sequence[Path]) -> list[int]:
    """Find files that have several names.

    Parameters
    ----------
    files : sequence of N paths
        They need not be there.

    Returns
    -------
    list of N int
        For each the place of the first that is the same file: through a link, too.
    """
    first: dict[object, int] = {}
    places = []
    for place, file in enumerate(files):
        key: object = plain_name(str(file))
        try:
            stat = file.stat()
            key = (stat.st_dev, stat.st_ino) if stat.st_ino else key
        except (OSError, ValueError):
            pass
        places.append(first.setdefault(key, place))
    return places


def check_distinct(files: Sequence[Path], name: str) -> None:
    """Refuse images of a JSON file, called `name`, that have one file's name: it might be trained and tested on."""
    first: dict[str, int] = {}
    for place, file in enumerate(files):
        other = first.setdefault(plain_name(str(file)), place)
        if other != place:
            raise DataFileError(
                f"{name}: images[{other}] and images[{place}] are one file, {file}. Take one of the two out."
            )


def by_split(pictures: Pictures, splits: Sequence[str] | None) -> dict[str, Pictures]:
    """Divide pictures by the split of each; all of them are `UNSPLIT` where none is given."""
    if splits is None:
        return {UNSPLIT: pictures}
    places: dict[str, list[int]] = {}
    for place, name in enumerate(splits):
        places.setdefault(name, []).append(place)
    return {name: pictures.take(chosen) for name, chosen in places.items()}
