"""Memory-mapped feature files: .npy, .npz and HDF5.

Data stored contiguously in native byte order are mapped directly. Other data (``.npz``, and HDF5 that is compressed,
chunked or of another byte order) are copied in parts to an unnamed temporary file, which is mapped: it needs space in
the folder of temporary files (``TMPDIR``) until the array is deleted.
"""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from capgpu.data.arrays import HostArray
from capgpu.data.picture_folder import is_companion, most_similar
from capgpu.data.text_files import DataFileError
from capgpu.file_formats.hdf5 import open_hdf5
from capgpu.file_formats.npy import map_npy, open_npz
from capgpu.visible_text import clipped, short

__all__ = ["FeatureFile", "open_features"]

_BYTES_AT_ONCE = 16 << 20
#: Names of entries that always contain the ids of the images.
_ID_NAMES = ("image_ids", "ids", "image_id", "id")
_Opened: TypeAlias = tuple[HostArray, list[int | str] | None, str | None]


@dataclass(frozen=True)
class FeatureFile:
    """Feature vectors, or grids of them, on disk.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    rows : numpy.memmap, shape (I, D) or (I, L, D)
        Floating-point, read-only.
    image_ids : list of int or str, or None
        The image id of each row, if the file contains them.
    ids_entry : str or None
        The name of their entry.
    """

    path: Path
    rows: HostArray
    image_ids: list[int | str] | None
    ids_entry: str | None = None

    def rows_of(self, image_ids: list[int | str]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Return the row of each image: by its id if the file has ids, otherwise in order.

        Raises
        ------
        DataFileError
            If the file has no row for an image, two ids differ only in their type (7 and "7"), or the number of rows
            without ids differs from that of images.
        """
        if self.image_ids is None:
            if len(self.rows) != len(image_ids):
                raise DataFileError(
                    f"{self.path}: expected one row for each of {len(image_ids)} images in the order of the captions' "
                    f"file, got {len(self.rows)}. Or store image_ids with the features, in .npz or .h5."
                )
            return np.arange(len(image_ids))
        if len(set(map(str, image_ids))) < len(image_ids):
            raise DataFileError(
                "image_ids: expected distinct ids, got some that differ only in their type, such as 7 and '7'. Use "
                "another id for each image."
            )
        row_of = {str(image): row for row, image in enumerate(self.image_ids)}
        missing = [image for image in image_ids if str(image) not in row_of]
        if missing:
            entry = f" in its entry {self.ids_entry}" if self.ids_entry else ""
            similar = most_similar(str(missing[0]), row_of)
            nearest = "" if similar is None else f"; the most similar id is {short(similar)}"
            raise DataFileError(
                f"{self.path}: expected features of {len(image_ids)} images, got none of {len(missing)}, the first "
                f"with the id {short(missing[0])}{entry}{nearest}. Add them, or remove those images."
            )
        return np.array([row_of[str(image)] for image in image_ids], dtype=np.int64)


def open_features(path: str | os.PathLike[str]) -> FeatureFile:
    """Open a file of feature vectors.

    Parameters
    ----------
    path : path
        A ``.npy`` file of shape (I, D), or (I, L, D) for a grid of L cells of each image, row by row; or an ``.npz`` or
        ``.h5`` file with such an entry named ``features`` and optionally ``image_ids`` (I,). Without an entry of that
        name (or ``ids``, ``image_id``, ``id``), the only other entry with I rows is used as ids.

    Returns
    -------
    FeatureFile
        Memory-mapped, see the module.

    Raises
    ------
    DataFileError
        For a file that is truncated or has another format, duplicate ids, rows that are not finite in float32, several
        entries that could be the ids, and HDF5 whose data are in other files.
    MissingExtraError
        For HDF5 if h5py is not installed.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    openers = {".npy": _open_npy, ".npz": _open_npz, ".h5": _open_h5, ".hdf5": _open_h5}
    kind = path.suffix.lower()
    if kind not in openers:
        raise DataFileError(f"{path}: expected a file of features ({', '.join(openers)}), got suffix {kind!r}.")
    rows, ids, entry = openers[kind](path)
    if rows.ndim not in (2, 3) or not np.issubdtype(rows.dtype, np.floating) or rows.size == 0:
        raise DataFileError(
            f"{path}: features: expected floats (I, D) or (I, L, D), got shape {rows.shape} and dtype {rows.dtype}."
        )
    _check_finite(path, rows)
    if ids is not None:
        if len(ids) != len(rows):
            raise DataFileError(
                f"{path}: {entry}: expected one image id for each of {len(rows)} rows of features, got {len(ids)}."
            )
        first: dict[int | str, int] = {}
        for row, image in enumerate(ids):
            if first.setdefault(image, row) != row:
                raise DataFileError(
                    f"{path}: {entry}: expected distinct image ids, got {short(image)} in rows {first[image]} and "
                    f"{row}. Remove the entry if it does not contain ids."
                )
    return FeatureFile(path, rows, ids, entry)


def _ids_entry(path: Path, shapes: Mapping[str, tuple[int, ...]], count: int) -> str | None:
    """Return the name of the entry with the image ids, by names and shapes; None if there is none."""
    known = [name for name in _ID_NAMES if name in shapes]
    if known:
        return known[0]
    likely = [name for name, shape in shapes.items() if shape[:1] == (count,)]
    if len(likely) > 1:
        raise DataFileError(
            f"{path}: expected one entry of image ids, got {', '.join(likely)} with as many rows as features. Name it "
            "image_ids, or remove the others."
        )
    return likely[0] if likely else None


def _check_finite(path: Path, rows: HostArray) -> None:
    largest = np.finfo(np.float32).max
    for start, block in _blocks(rows):
        finite = (np.abs(block) <= largest).reshape(len(block), -1).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise DataFileError(
                f"{path}: features: expected values that are finite in float32, got others in row {row}. Compute it "
                "again, or remove its image."
            )


def _blocks(rows: Any) -> Iterator[tuple[int, HostArray]]:
    """Yield the rows of an array or dataset in blocks of 16 MiB."""
    width = max(rows.dtype.itemsize * math.prod(rows.shape[1:]), 1)
    step = max(_BYTES_AT_ONCE // width, 1)
    for start in range(0, rows.shape[0], step):
        yield start, rows[start : start + step]


# --- .npy and .npz -----------------------------------------------------------------------------------------


def _open_npy(path: Path) -> tuple[HostArray, None, None]:
    return map_npy(path, DataFileError), None, None


def _open_npz(path: Path) -> _Opened:
    with open_npz(path, DataFileError) as file:
        names = [name.removesuffix(".npy") for name in file.members if _is_entry(name)]
        if "features" not in names:
            raise DataFileError(f"{path}: expected an entry features, got {', '.join(names)[:80] or 'none'}.")
        rows = file.map("features")
        # an entry that is chosen by its name is checked later
        shapes = {name: () if name in _ID_NAMES else file.shape(name) for name in names if name != "features"}
        entry = _ids_entry(path, shapes, len(rows) if rows.ndim else 0)
        return rows, None if entry is None else _plain_ids(path, file.read(entry), entry), entry


def _is_entry(name: str) -> bool:
    """Return whether a member of an archive is an array, and not a companion, as macOS adds them to archives."""
    return name.endswith(".npy") and not any(map(is_companion, name.split("/")))


def _plain_ids(path: Path, ids: HostArray, name: str) -> list[int | str]:
    if ids.ndim != 1 or ids.dtype.kind not in "iuUS":
        other = "" if name in _ID_NAMES else " Name the images in an entry image_ids, or remove this one."
        raise DataFileError(
            f"{path}: {clipped(name)}: expected integer or text image ids (I,), got shape {ids.shape} and dtype "
            f"{ids.dtype}.{other}"
        )
    if ids.dtype.kind == "S":
        ids = np.char.decode(ids, "utf-8", "replace")
    values: list[int | str] = ids.tolist()
    return values


# --- HDF5 --------------------------------------------------------------------------------------------------


def _open_h5(path: Path) -> _Opened:
    with open_hdf5(path, DataFileError) as file:
        rows = file.map("features")
        # an entry that is chosen by its name is checked later
        shapes = {
            name: () if name in _ID_NAMES or shape is None else shape
            for name, shape in file.shapes.items()
            if name != "features"
        }
        entry = _ids_entry(path, shapes, len(rows) if rows.ndim else 0)
        return rows, None if entry is None else _plain_ids(path, file.read(entry), entry), entry
