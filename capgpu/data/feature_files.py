"""Feature files, mapped into memory: .npy, .npz and HDF5, none of them ever held whole.

What lies in a file as it is in memory is mapped from there. What does not (compressed, in chunks, in foreign byte
order) is copied some rows at a time into an unnamed temporary file and mapped from there: it needs room in the folder
of temporary files (``TMPDIR``), which the system gets back when the array is let go of.
"""

from __future__ import annotations

import math
import os
import tempfile
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from capgpu.data.arrays import HostArray
from capgpu.data.text_files import DataFileError
from capgpu.extras import require

__all__ = ["FeatureFile", "map_dataset", "open_features", "open_h5"]

_BYTES_AT_ONCE = 16 << 20
#: Entries of a file of several arrays that may hold the images' ids.
_ID_NAMES = ("image_ids", "ids")


@dataclass(frozen=True)
class FeatureFile:
    """Feature vectors on disk.

    Attributes
    ----------
    path : pathlib.Path
        Where they are.
    rows : numpy.memmap, shape (I, D)
        Floating, read-only.
    image_ids : list of int or str, or None
        The image of each row, where the file says so.
    """

    path: Path
    rows: HostArray
    image_ids: list[int | str] | None

    def rows_of(self, image_ids: list[int | str]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Find the row of each image: by its id where the file has them, else by its place.

        Raises
        ------
        DataFileError
            If the file has no row for an image, or rows for others and no ids to tell them apart.
        """
        if self.image_ids is None:
            if len(self.rows) != len(image_ids):
                raise DataFileError(
                    f"{self.path} holds the features of {len(self.rows)} images, the captions are of {len(image_ids)}. "
                    "Wanted one row an image in the order of the captions' file, or, in .npz or .h5, features with "
                    "their image_ids."
                )
            return np.arange(len(image_ids))
        place = {str(image): row for row, image in enumerate(self.image_ids)}
        missing = [image for image in image_ids if str(image) not in place]
        if missing:
            raise DataFileError(
                f"{self.path} has no features of {len(missing)} of {len(image_ids)} images, the first of the id "
                f"{missing[0]!r}. Make them, or take those images out."
            )
        return np.array([place[str(image)] for image in image_ids], dtype=np.int64)


def open_features(path: str | os.PathLike[str]) -> FeatureFile:
    """Open a file of feature vectors.

    Parameters
    ----------
    path : path
        A ``.npy`` file of shape (I, D), or an ``.npz`` or ``.h5`` file with such an entry named ``features`` and, at
        will, ``image_ids`` (I,).

    Returns
    -------
    FeatureFile
        Mapped, see the module.

    Raises
    ------
    DataFileError
        For a file that is cut short or of another form, ids that stand there twice, and rows that are not finite.
    MissingExtraError
        For HDF5 without h5py.
    OSError
        As the system gives it.
    """
    path = Path(path)
    openers = {".npy": _open_npy, ".npz": _open_npz, ".h5": _open_h5_features, ".hdf5": _open_h5_features}
    if path.suffix not in openers:
        raise DataFileError(f"{path} is no file of features that is known here; wanted {', '.join(openers)}.")
    rows, ids = openers[path.suffix](path)
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating) or rows.size == 0:
        raise DataFileError(f"{path}: features have shape {rows.shape} and dtype {rows.dtype}; wanted floats (I, D).")
    _check_finite(path, rows)
    if ids is not None:
        if len(ids) != len(rows):
            raise DataFileError(f"{path} has {len(ids)} image ids for {len(rows)} rows of features; wanted one a row.")
        first: dict[int | str, int] = {}
        for row, image in enumerate(ids):
            if first.setdefault(image, row) != row:
                raise DataFileError(f"{path}: rows {first[image]} and {row} have the same image id, {image!r}.")
    return FeatureFile(path, rows, ids)


def _check_finite(path: Path, rows: HostArray) -> None:
    for start, block in _blocks(rows):
        finite = np.isfinite(block).all(axis=1)
        if not finite.all():
            row = start + int(np.argmin(finite))
            raise DataFileError(
                f"{path}: row {row} of features holds NaN or infinity. Make it anew, or drop its image."
            )


def _blocks(rows: Any) -> Iterator[tuple[int, HostArray]]:
    """Go through the rows of an array, or of a dataset, in blocks of a few megabytes."""
    width = max(rows.dtype.itemsize * int(np.prod(rows.shape[1:])), 1)
    step = max(_BYTES_AT_ONCE // width, 1)
    for start in range(0, rows.shape[0], step):
        yield start, rows[start : start + step]


# --- .npy and .npz -----------------------------------------------------------------------------------------


def _open_npy(path: Path) -> tuple[HostArray, None]:
    with open(path, "rb"):
        pass  # what the system has to say of the file, it says itself
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False), None
    except (ValueError, EOFError, OSError) as error:
        raise DataFileError(
            f"{path} cannot be read as an array (cut short, or another kind of file): {error}"
        ) from error


def _open_npz(path: Path) -> tuple[HostArray, list[int | str] | None]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = [name.removesuffix(".npy") for name in archive.namelist()]
            if "features" not in names:
                raise DataFileError(f"{path} has no entry features; it has {', '.join(names) or 'none'}.")
            with archive.open("features.npy") as member:
                dtype, shape = _npy_header(path, member)
                rows = _copied(dtype, shape, lambda size: _exactly(path, member, size))
            for name in _ID_NAMES:
                if name in names:
                    with archive.open(f"{name}.npy") as member:
                        return rows, _plain_ids(path, np.lib.format.read_array(member, allow_pickle=False))
            return rows, None
    except (zipfile.BadZipFile, zipfile.zlib.error, NotImplementedError, EOFError) as error:  # type: ignore[attr-defined]
        raise DataFileError(f"{path} is damaged, cut short or no .npz file: {error}.") from error


def _npy_header(path: Path, member: Any) -> tuple[np.dtype[Any], tuple[int, ...]]:
    try:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(member)
    except ValueError as error:
        raise DataFileError(f"{path}: its entry features is no array: {error}.") from error
    if fortran or dtype.hasobject:
        raise DataFileError(f"{path}: features has dtype {dtype} or is stored by columns; wanted floats by rows.")
    return dtype, shape


def _exactly(path: Path, member: Any, size: int) -> bytes:
    content: bytes = member.read(size)
    if len(content) != size:
        raise DataFileError(f"{path}: its entry features is cut short.")
    return content


def _copied(dtype: np.dtype[Any], shape: tuple[int, ...], read: Callable[[int], bytes]) -> HostArray:
    """Copy an array into an unnamed temporary file, some bytes at a time, and map it from there."""
    left = dtype.itemsize * int(np.prod(shape))
    with tempfile.TemporaryFile() as file:
        while left:
            size = min(left, _BYTES_AT_ONCE)
            file.write(read(size))
            left -= size
        return _mapped(file, dtype, shape)


def _mapped(file: Any, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int = 0) -> HostArray:
    if 0 in shape:
        return np.empty(shape, dtype)
    file.flush()
    return np.memmap(file, dtype, "r", offset, shape)


def _plain_ids(path: Path, ids: HostArray) -> list[int | str]:
    if ids.ndim != 1 or ids.dtype.kind not in "iuUS":
        raise DataFileError(
            f"{path}: image ids have shape {ids.shape} and dtype {ids.dtype}; wanted whole numbers (I,)."
        )
    if ids.dtype.kind == "S":
        ids = np.char.decode(ids, "utf-8", "replace")
    values: list[int | str] = ids.tolist()
    return values


# --- HDF5 --------------------------------------------------------------------------------------------------


@contextmanager
def open_h5(path: str | os.PathLike[str]) -> Iterator[Any]:
    """Open an HDF5 file for reading.

    Parameters
    ----------
    path : path
        The file.

    Yields
    ------
    h5py.File
        Open as long as the block lasts.

    Raises
    ------
    DataFileError
        If the file is cut short, or no HDF5, when it is opened or read.
    MissingExtraError
        Without h5py.
    OSError
        As the system gives it.
    """
    h5py = require("h5py", "h5", f"Reading {os.fspath(path)}, an HDF5 file,")
    with open(path, "rb"):
        pass  # what the system has to say of the file, it says itself
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        raise DataFileError(
            f"{os.fspath(path)} is cut short, damaged or no HDF5 file: {error}. Fetch it anew."
        ) from error


def map_dataset(file: Any, name: str) -> HostArray:
    """Map a dataset of an open HDF5 file.

    Parameters
    ----------
    file : h5py.File
        The file.
    name : str
        Name of the dataset.

    Returns
    -------
    numpy.ndarray
        Read-only and mapped, whether or not the file stays open.

    Raises
    ------
    DataFileError
        If the file has no such dataset of numbers, or it is damaged, or parts of it were never written.
    """
    try:
        return _mapped_dataset(file, name)
    except DataFileError:
        raise
    except (TypeError, ValueError) as error:  # what h5py makes of a header that is damaged
        raise DataFileError(f"{file.filename}: {name!r} cannot be read: {error}. Fetch the file anew.") from error


def _mapped_dataset(file: Any, name: str) -> HostArray:
    dataset = file.get(name)
    if not hasattr(dataset, "shape") or dataset.shape is None or dataset.dtype.kind not in "iuf":
        held = ", ".join(map(str, file)) or "nothing"
        raise DataFileError(f"{file.filename} has no numbers named {name!r}; it holds {held}.")
    _check_complete(file, dataset)
    offset = dataset.id.get_offset()
    if offset is not None and dataset.dtype.isnative and not file.userblock_size and not dataset.external:
        with open(file.filename, "rb") as raw:
            return _mapped(raw, dataset.dtype, dataset.shape, offset)
    native = dataset.dtype.newbyteorder("=")
    with tempfile.TemporaryFile() as copy:
        for _, block in _blocks(dataset):
            copy.write(np.ascontiguousarray(block, native).data)
        return _mapped(copy, native, dataset.shape)


def _check_complete(file: Any, dataset: Any) -> None:
    """Refuse a dataset parts of which were never written: HDF5 reads them as zeros, however many a header claims."""
    if dataset.chunks is not None:
        wanted = math.prod(-(-extent // chunk) for extent, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        complete = dataset.id.get_num_chunks() >= wanted
    else:
        complete = dataset.is_virtual or dataset.id.get_storage_size() >= dataset.nbytes
    if not complete:
        raise DataFileError(
            f"{file.filename}: {dataset.name} of shape {dataset.shape} is not all there: its writing was cut short, or "
            "the file is damaged. Make or fetch it anew."
        )


def _open_h5_features(path: Path) -> tuple[HostArray, list[int | str] | None]:
    with open_h5(path) as file:
        rows = map_dataset(file, "features")
        for name in _ID_NAMES:
            if name in file:
                values = file[name]
                stored = values.asstr()[...].astype(str) if values.dtype.kind == "O" else values[...]
                return rows, _plain_ids(path, stored)
        return rows, None
