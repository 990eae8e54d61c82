"""Feature files, mapped into memory: .npy, .npz and HDF5, none of them ever held whole.

What lies in a file as it is in memory is mapped from there. What does not (``.npz``, and HDF5 that is compressed, in
chunks or of foreign byte order) is copied some rows at a time into an unnamed temporary file and mapped from there: it
needs room in the folder of temporary files (``TMPDIR``), which the system gets back when the array is let go of.
"""

from __future__ import annotations

import errno
import lzma
import math
import os
import tempfile
import tokenize
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np

from capgpu.data.arrays import HostArray
from capgpu.data.text_files import DataFileError
from capgpu.optional_deps import require

__all__ = ["FeatureFile", "map_dataset", "open_features", "open_h5"]

_BYTES_AT_ONCE = 16 << 20
#: Entries of a file of several arrays that hold the images' ids, whatever else is there.
_ID_NAMES = ("image_ids", "ids", "image_id", "id")
_Opened: TypeAlias = tuple[HostArray, list[int | str] | None, str | None]
#: What NumPy raises for a header that is damaged.
_HEADER_ERRORS = (ValueError, TypeError, EOFError, tokenize.TokenError, SyntaxError, RecursionError, MemoryError)


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
    ids_entry : str or None
        The name of the entry that they come from.
    """

    path: Path
    rows: HostArray
    image_ids: list[int | str] | None
    ids_entry: str | None = None

    def rows_of(self, image_ids: list[int | str]) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Find the row of each image: by its id where the file has them, else by its place.

        Raises
        ------
        DataFileError
            If the file has no row for an image, or one for two (the ids 7 and "7"), or rows for others and no ids to
            tell them apart.
        """
        if self.image_ids is None:
            if len(self.rows) != len(image_ids):
                raise DataFileError(
                    f"{self.path} holds the features of {len(self.rows)} images, the captions are of {len(image_ids)}. "
                    "Wanted one row an image in the order of the captions' file, or, in .npz or .h5, features with "
                    "their image_ids."
                )
            return np.arange(len(image_ids))
        if len(set(map(str, image_ids))) < len(image_ids):
            raise DataFileError(
                "the captions are of images whose ids differ in their type alone, such as 7 and '7': features cannot "
                "be told apart by them. Give every image another id."
            )
        place = {str(image): row for row, image in enumerate(self.image_ids)}
        missing = [image for image in image_ids if str(image) not in place]
        if missing:
            entry = f" in its entry {self.ids_entry}" if self.ids_entry else ""
            raise DataFileError(
                f"{self.path} has no features of {len(missing)} of {len(image_ids)} images, the first of the id "
                f"{missing[0]!r}{entry}. Make them, or take those images out."
            )
        return np.array([place[str(image)] for image in image_ids], dtype=np.int64)


def open_features(path: str | os.PathLike[str]) -> FeatureFile:
    """Open a file of feature vectors.

    Parameters
    ----------
    path : path
        A ``.npy`` file of shape (I, D), or an ``.npz`` or ``.h5`` file with such an entry named ``features`` and, at
        will, ``image_ids`` (I,). Without an entry of that name (or ``ids``, ``image_id``, ``id``) the only other one
        with I rows is taken for the ids.

    Returns
    -------
    FeatureFile
        Mapped, see the module.

    Raises
    ------
    DataFileError
        For a file that is cut short or of another form, ids that stand there twice, rows that float32 cannot hold or
        that are not finite, and entries with as many rows as the features that may or may not be their ids.
    MissingExtraError
        For HDF5 without h5py.
    OSError
        As the system gives it.
    """
    path = Path(path)
    openers = {".npy": _open_npy, ".npz": _open_npz, ".h5": _open_h5_features, ".hdf5": _open_h5_features}
    kind = path.suffix.lower()
    if kind not in openers:
        raise DataFileError(f"{path} is no file of features that is known here; wanted {', '.join(openers)}.")
    rows, ids, entry = openers[kind](path)
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating) or rows.size == 0:
        raise DataFileError(f"{path}: features have shape {rows.shape} and dtype {rows.dtype}; wanted floats (I, D).")
    _check_finite(path, rows)
    if ids is not None:
        if len(ids) != len(rows):
            raise DataFileError(
                f"{path} has {len(ids)} image ids ({entry}) for {len(rows)} rows of features; wanted one a row."
            )
        first: dict[int | str, int] = {}
        for row, image in enumerate(ids):
            if first.setdefault(image, row) != row:
                raise DataFileError(
                    f"{path}: rows {first[image]} and {row} have the same image id, {image!r}, in the entry {entry}. "
                    "Wanted the id of one image a row; an entry that holds something else must go."
                )
    return FeatureFile(path, rows, ids, entry)


def _ids_entry(path: Path, shapes: Mapping[str, tuple[int, ...]], count: int) -> str | None:
    """Find the entry that holds the ids of a file's rows of features, among the shapes of all others; None for none."""
    known = [name for name in _ID_NAMES if name in shapes]
    if known:
        return known[0]
    likely = [name for name, shape in shapes.items() if shape[:1] == (count,)]
    if len(likely) > 1:
        raise DataFileError(
            f"{path}: which entry names the images? {', '.join(likely)} have as many rows as features. Call it "
            "image_ids, or take the others out."
        )
    return likely[0] if likely else None


def _check_finite(path: Path, rows: HostArray) -> None:
    largest = np.finfo(np.float32).max
    for start, block in _blocks(rows):
        fine = (np.abs(block) <= largest).all(axis=1)
        if not fine.all():
            row = start + int(np.argmin(fine))
            raise DataFileError(
                f"{path}: row {row} of features holds NaN, infinity or what float32 cannot hold. Make it anew, or drop "
                "its image."
            )


def _blocks(rows: Any) -> Iterator[tuple[int, HostArray]]:
    """Go through the rows of an array, or of a dataset, in blocks of a few megabytes."""
    width = max(rows.dtype.itemsize * math.prod(rows.shape[1:]), 1)
    step = max(_BYTES_AT_ONCE // width, 1)
    for start in range(0, rows.shape[0], step):
        yield start, rows[start : start + step]


# --- .npy and .npz -----------------------------------------------------------------------------------------


def _open_npy(path: Path) -> tuple[HostArray, None, None]:
    with open(path, "rb") as file:
        dtype, shape, order = _npy_header(path, file)
        size, found = dtype.itemsize * math.prod(shape), os.fstat(file.fileno()).st_size - file.tell()
        if found < size:
            raise DataFileError(f"{path} is cut short: it has {found} bytes of features, wanted {size}.")
        return _mapped(file, dtype, shape, file.tell(), order), None, None


def _open_npz(path: Path) -> _Opened:
    with open(path, "rb") as file:  # what the system has to say of the file, it says itself
        try:
            with zipfile.ZipFile(file) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
                if "features" not in names:
                    raise DataFileError(f"{path} has no entry features; it has {', '.join(names) or 'none'}.")
                with archive.open("features.npy") as member:
                    rows = _copied(path, member)
                entry = _ids_entry(path, _npz_shapes(path, archive, names), len(rows) if rows.ndim else 0)
                return rows, None if entry is None else _npz_ids(path, archive, entry), entry
        except DataFileError:
            raise
        # what the zip module and its decompressors raise for damaged files: the OSError is of a place out of the file
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, RuntimeError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise DataFileError(f"{path} is damaged, cut short or no .npz file: {error}.") from error


def _npz_shapes(path: Path, archive: zipfile.ZipFile, names: list[str]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        if name in _ID_NAMES:
            shapes[name] = ()  # taken by its name, and its form looked at then
        elif name != "features":
            with archive.open(f"{name}.npy") as member:
                shapes[name] = _any_header(path, member)[1]
    return shapes


def _npz_ids(path: Path, archive: zipfile.ZipFile, name: str) -> list[int | str]:
    try:
        with archive.open(f"{name}.npy") as member:
            return _plain_ids(path, np.lib.format.read_array(member, allow_pickle=False), name)
    except _HEADER_ERRORS as error:
        raise DataFileError(
            f"{path}: its entry {name} cannot be read: {error}. Wanted whole numbers or texts."
        ) from error


def _npy_header(path: Path, file: Any) -> tuple[np.dtype[Any], tuple[int, ...], Literal["C", "F"]]:
    dtype, shape, order = _any_header(path, file)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise DataFileError(f"{path}: features have shape {shape} and dtype {dtype}; wanted floats (I, D).")
    return dtype, shape, order


def _any_header(path: Path, file: Any) -> tuple[np.dtype[Any], tuple[int, ...], Literal["C", "F"]]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except _HEADER_ERRORS as error:
        raise DataFileError(
            f"{path} holds no array that can be read (cut short, or of another kind): {error}."
        ) from error
    return dtype, shape, "F" if fortran else "C"


def _copied(path: Path, member: Any) -> HostArray:
    """Copy an entry of an archive into an unnamed temporary file, some bytes at a time, and map it from there."""
    dtype, shape, order = _npy_header(path, member)
    left = dtype.itemsize * math.prod(shape)
    with tempfile.TemporaryFile() as file:
        while left:
            block = member.read(min(left, _BYTES_AT_ONCE))
            if not block:
                raise DataFileError(f"{path}: its entry features is cut short, {left} bytes are missing.")
            file.write(block)
            left -= len(block)
        return _mapped(file, dtype, shape, order=order)


def _mapped(
    file: Any, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int = 0, order: Literal["C", "F"] = "C"
) -> HostArray:
    if 0 in shape:
        return np.empty(shape, dtype)
    file.flush()
    return np.memmap(file, dtype, "r", offset, shape, order)


def _plain_ids(path: Path, ids: HostArray, name: str) -> list[int | str]:
    if ids.ndim != 1 or ids.dtype.kind not in "iuUS":
        other = "" if name in _ID_NAMES else " Name the images in an entry image_ids, or take this one out."
        raise DataFileError(
            f"{path}: image ids have shape {ids.shape} and dtype {ids.dtype} in the entry {name}; wanted whole numbers "
            f"or texts (I,).{other}"
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
        if isinstance(error, OSError) and error.errno is not None:
            raise  # the system's, such as a full disk; HDF5's own have no number
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
    as_it_is = dataset.dtype.isnative and dataset.id.get_storage_size() == dataset.nbytes
    if offset is not None and as_it_is and not file.userblock_size and not dataset.external:
        with open(file.filename, "rb") as raw:
            return _mapped(raw, dataset.dtype, dataset.shape, offset)
    native = dataset.dtype.newbyteorder("=")
    if not dataset.shape:
        return np.array(dataset[()], native)
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
        # numbers that NumPy lacks are stored in another width than they are read in
        wanted = dataset.id.get_type().get_size() * dataset.size
        complete = dataset.is_virtual or dataset.id.get_storage_size() >= wanted
    if not complete:
        raise DataFileError(
            f"{file.filename}: {dataset.name} of shape {dataset.shape} is not all there: its writing was cut short, or "
            "the file is damaged. Make or fetch it anew."
        )


def _open_h5_features(path: Path) -> _Opened:
    with open_h5(path) as file:
        rows = map_dataset(file, "features")
        shapes: dict[str, tuple[int, ...]] = {name: () for name in _ID_NAMES if name in file}
        file.visititems(lambda name, item: _note_shape(shapes, name, item))
        entry = _ids_entry(path, shapes, len(rows) if rows.ndim else 0)
        return rows, None if entry is None else _h5_ids(path, file[entry], entry), entry


def _note_shape(shapes: dict[str, tuple[int, ...]], name: str, item: Any) -> None:
    """Note the shape of a dataset, in whatever group of an HDF5 file."""
    if name != "features" and getattr(item, "shape", None) is not None:
        shapes.setdefault(name, item.shape)


def _h5_ids(path: Path, values: Any, name: str) -> list[int | str]:
    try:
        stored = np.array(values.asstr()[...], str) if values.dtype.kind == "O" else values[...]
    except (AttributeError, TypeError, ValueError) as error:
        raise DataFileError(f"{path}: {name} are no whole numbers or texts that can be read: {error}.") from error
    return _plain_ids(path, stored, name)
