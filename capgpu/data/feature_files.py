"""Memory-mapped feature files: .npy, .npz and HDF5.

Data stored contiguously in native byte order are mapped directly. Other data (``.npz``, and HDF5 that is compressed,
chunked or of another byte order) are copied in parts to an unnamed temporary file, which is mapped: it needs space in
the folder of temporary files (``TMPDIR``) until the array is deleted.
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
from capgpu.data.picture_folder import is_companion, most_similar
from capgpu.data.text_files import DataFileError
from capgpu.optional_deps import require

__all__ = ["FeatureFile", "map_dataset", "open_features", "open_h5"]

_BYTES_AT_ONCE = 16 << 20
#: Names of entries that always contain the ids of the images.
_ID_NAMES = ("image_ids", "ids", "image_id", "id")
_Opened: TypeAlias = tuple[HostArray, list[int | str] | None, str | None]
#: The exceptions that NumPy raises for a damaged header.
_HEADER_ERRORS = (ValueError, TypeError, EOFError, tokenize.TokenError, SyntaxError, RecursionError, MemoryError)


@dataclass(frozen=True)
class FeatureFile:
    """Feature vectors on disk.

    Attributes
    ----------
    path : pathlib.Path
        The file.
    rows : numpy.memmap, shape (I, D)
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
            nearest = "" if similar is None else f"; the most similar id is {similar!r}"
            raise DataFileError(
                f"{self.path}: expected features of {len(image_ids)} images, got none of {len(missing)}, the first "
                f"with the id {missing[0]!r}{entry}{nearest}. Add them, or remove those images."
            )
        return np.array([row_of[str(image)] for image in image_ids], dtype=np.int64)


def open_features(path: str | os.PathLike[str]) -> FeatureFile:
    """Open a file of feature vectors.

    Parameters
    ----------
    path : path
        A ``.npy`` file of shape (I, D), or an ``.npz`` or ``.h5`` file with such an entry named ``features`` and
        optionally ``image_ids`` (I,). Without an entry of that name (or ``ids``, ``image_id``, ``id``), the only other
        entry with I rows is used as ids.

    Returns
    -------
    FeatureFile
        Memory-mapped, see the module.

    Raises
    ------
    DataFileError
        For a file that is truncated or has another format, duplicate ids, rows that are not finite in float32, and
        several entries that could be the ids.
    MissingExtraError
        For HDF5 if h5py is not installed.
    OSError
        If the file cannot be read.
    """
    path = Path(path)
    openers = {".npy": _open_npy, ".npz": _open_npz, ".h5": _open_h5_features, ".hdf5": _open_h5_features}
    kind = path.suffix.lower()
    if kind not in openers:
        raise DataFileError(f"{path}: expected a file of features ({', '.join(openers)}), got suffix {kind!r}.")
    rows, ids, entry = openers[kind](path)
    if rows.ndim != 2 or not np.issubdtype(rows.dtype, np.floating) or rows.size == 0:
        raise DataFileError(f"{path}: features: expected floats (I, D), got shape {rows.shape} and dtype {rows.dtype}.")
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
                    f"{path}: {entry}: expected distinct image ids, got {image!r} in rows {first[image]} and {row}. "
                    "Remove the entry if it does not contain ids."
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
        finite = (np.abs(block) <= largest).all(axis=1)
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
    with open(path, "rb") as file:
        dtype, shape, order = _npy_header(path, file)
        size, found = dtype.itemsize * math.prod(shape), os.fstat(file.fileno()).st_size - file.tell()
        if found < size:
            raise DataFileError(f"{path} is truncated: expected {size} bytes of features, got {found}.")
        return _mapped(file, dtype, shape, file.tell(), order), None, None


def _open_npz(path: Path) -> _Opened:
    with open(path, "rb") as file:  # errors of the system are raised here
        try:
            with zipfile.ZipFile(file) as archive:
                names = [name.removesuffix(".npy") for name in archive.namelist() if _is_entry(name)]
                if "features" not in names:
                    raise DataFileError(f"{path}: expected an entry features, got {', '.join(names) or 'none'}.")
                with archive.open("features.npy") as member:
                    rows = _copied(path, member)
                entry = _ids_entry(path, _npz_shapes(path, archive, names), len(rows) if rows.ndim else 0)
                return rows, None if entry is None else _npz_ids(path, archive, entry), entry
        except DataFileError:
            raise
        # exceptions of the zip module and its decompressors for damaged files: OSError for a position outside of it
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, ValueError, RuntimeError, EOFError, OSError) as error:
            if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
                raise
            raise DataFileError(f"{path}: expected an intact .npz file, got: {error}.") from error


def _is_entry(name: str) -> bool:
    """Return whether a member of an archive is an array, and not a companion, as macOS adds them to archives."""
    return name.endswith(".npy") and not any(map(is_companion, name.split("/")))


def _npz_shapes(path: Path, archive: zipfile.ZipFile, names: list[str]) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name in names:
        if name in _ID_NAMES:
            shapes[name] = ()  # chosen by its name; its shape is checked later
        elif name != "features":
            with archive.open(f"{name}.npy") as member:
                shapes[name] = _any_header(path, member)[1]
    return shapes


def _npz_ids(path: Path, archive: zipfile.ZipFile, name: str) -> list[int | str]:
    try:
        with archive.open(f"{name}.npy") as member:
            return _plain_ids(path, np.lib.format.read_array(member, allow_pickle=False), name)
    except _HEADER_ERRORS as error:
        raise DataFileError(f"{path}: {name}: expected integers or texts, got: {error}.") from error


def _npy_header(path: Path, file: Any) -> tuple[np.dtype[Any], tuple[int, ...], Literal["C", "F"]]:
    dtype, shape, order = _any_header(path, file)
    if dtype.hasobject or min(shape, default=0) < 0:
        raise DataFileError(f"{path}: features: expected floats (I, D), got shape {shape} and dtype {dtype}.")
    return dtype, shape, order


def _any_header(path: Path, file: Any) -> tuple[np.dtype[Any], tuple[int, ...], Literal["C", "F"]]:
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = read(file)
    except _HEADER_ERRORS as error:
        raise DataFileError(f"{path}: expected an intact NumPy array, got: {error}.") from error
    return dtype, shape, "F" if fortran else "C"


def _copied(path: Path, member: Any) -> HostArray:
    """Copy an entry of an archive to an unnamed temporary file in parts, and map it."""
    dtype, shape, order = _npy_header(path, member)
    remaining = dtype.itemsize * math.prod(shape)
    with tempfile.TemporaryFile() as file:
        while remaining:
            block = member.read(min(remaining, _BYTES_AT_ONCE))
            if not block:
                raise DataFileError(f"{path}: features is truncated: {remaining} bytes are missing.")
            file.write(block)
            remaining -= len(block)
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
        other = "" if name in _ID_NAMES else " Name the images in an entry image_ids, or remove this one."
        raise DataFileError(
            f"{path}: {name}: expected integer or text image ids (I,), got shape {ids.shape} and dtype {ids.dtype}."
            f"{other}"
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
        The file, closed at the end of the block.

    Raises
    ------
    DataFileError
        If the file is truncated or not HDF5.
    MissingExtraError
        If h5py is not installed.
    OSError
        If the file cannot be read.
    """
    h5py = require("h5py", "h5", f"Reading {os.fspath(path)}, an HDF5 file,")
    with open(path, "rb"):
        pass  # errors of the system are raised here
    try:
        with h5py.File(path, "r") as file:
            yield file
    except (OSError, RuntimeError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise  # of the system, such as a full disk; those of HDF5 have no error number
        raise DataFileError(
            f"{os.fspath(path)}: expected an intact HDF5 file, got: {error}. Download it again."
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
        Read-only and mapped, also after the file is closed.

    Raises
    ------
    DataFileError
        If the file has no such numeric dataset, or it is damaged or incomplete.
    """
    try:
        return _mapped_dataset(file, name)
    except DataFileError:
        raise
    except (TypeError, ValueError) as error:  # raised by h5py for damaged headers
        raise DataFileError(f"{file.filename}: {name!r} cannot be read: {error}. Download the file again.") from error


def _mapped_dataset(file: Any, name: str) -> HostArray:
    dataset = file.get(name)
    if not hasattr(dataset, "shape") or dataset.shape is None or dataset.dtype.kind not in "iuf":
        names = ", ".join(map(str, file)) or "nothing"
        raise DataFileError(f"{file.filename}: expected a numeric dataset {name!r}, got {names}.")
    _check_complete(file, dataset)
    offset = dataset.id.get_offset()
    contiguous = dataset.dtype.isnative and dataset.id.get_storage_size() == dataset.nbytes
    if offset is not None and contiguous and not file.userblock_size and not dataset.external:
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
    """Reject an incomplete dataset: HDF5 reads parts that were never written as zeros."""
    if dataset.chunks is not None:
        expected = math.prod(-(-extent // chunk) for extent, chunk in zip(dataset.shape, dataset.chunks, strict=True))
        complete = dataset.id.get_num_chunks() >= expected
    else:
        # numbers of types that NumPy lacks are stored in another width than they are read in
        expected = dataset.id.get_type().get_size() * dataset.size
        complete = dataset.is_virtual or dataset.id.get_storage_size() >= expected
    if not complete:
        raise DataFileError(
            f"{file.filename}: {dataset.name}: expected a complete dataset of shape {dataset.shape}, got a part: the "
            "file is truncated or damaged. Create or download it again."
        )


def _open_h5_features(path: Path) -> _Opened:
    with open_h5(path) as file:
        rows = map_dataset(file, "features")
        shapes: dict[str, tuple[int, ...]] = {name: () for name in _ID_NAMES if name in file}
        file.visititems(lambda name, item: _note_shape(shapes, name, item))
        entry = _ids_entry(path, shapes, len(rows) if rows.ndim else 0)
        return rows, None if entry is None else _h5_ids(path, file[entry], entry), entry


def _note_shape(shapes: dict[str, tuple[int, ...]], name: str, item: Any) -> None:
    """Record the shape of a dataset in any group of an HDF5 file."""
    if name != "features" and getattr(item, "shape", None) is not None:
        shapes.setdefault(name, item.shape)


def _h5_ids(path: Path, values: Any, name: str) -> list[int | str]:
    try:
        stored = np.array(values.asstr()[...], str) if values.dtype.kind == "O" else values[...]
    except (AttributeError, TypeError, ValueError) as error:
        raise DataFileError(f"{path}: {name}: expected integers or texts, got: {error}.") from error
    return _plain_ids(path, stored, name)
