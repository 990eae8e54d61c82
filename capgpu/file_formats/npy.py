"""NumPy's ``.npy`` files and ``.npz`` archives: sizes are compared with those of the file before memory is used."""

from __future__ import annotations

import math
import os
import shutil
import tempfile
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple

import numpy as np

from capgpu.errors import CapgpuError, name_os_errors
from capgpu.visible_text import clipped, short

__all__ = [
    "Header",
    "NpzFile",
    "check_expansion",
    "check_free_space",
    "map_copy",
    "map_file",
    "map_npy",
    "open_npz",
    "read_header",
]

HostArray = np.ndarray[Any, Any]

_BYTES_AT_ONCE = 16 << 20
#: The largest length of a side; products of sides are compared with the size of the file.
_LONGEST_SIDE = 1 << 48
#: The exceptions that NumPy raises for a damaged header.
_HEADER_ERRORS = (ValueError, TypeError, EOFError, tokenize.TokenError, SyntaxError, RecursionError, MemoryError)
#: The exceptions of the zip module and its decompressor for damaged files.
_ZIP_ERRORS = (
    *(zipfile.BadZipFile, zlib.error, ValueError, RuntimeError, EOFError, NotImplementedError, OverflowError),
    *(IndexError, KeyError),
)
#: An archive may be this many times larger than its file, or have this many bytes: features of networks shrink by less
#: than 10, and zip bombs by 1000.
_MOST_EXPANSION, _MOST_BYTES = 100, 1 << 30
_REMEDY = "Set TMPDIR to a folder with more space, or store the array uncompressed (numpy.save)."


class Header(NamedTuple):
    """The header of an array: dtype, shape, memory order, and the number of bytes of its numbers."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    order: Literal["C", "F"]
    size: int


def read_header(file: IO[bytes], where: str, error: type[CapgpuError]) -> Header:
    """Read the header of an array, up to its numbers.

    Parameters
    ----------
    file : file
        Positioned at the start of the array.
    where : str
        File and place, for messages.
    error : type of CapgpuError
        Exception for a damaged header.

    Returns
    -------
    Header
        The header; its shape may exceed the file, and its dtype may be that of Python objects.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about headers of Python 2
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
    except _HEADER_ERRORS as cause:
        raise error(f"{where}: expected an intact NumPy array, got: {str(cause)[:100]}.") from cause
    if len(shape) > 32 or not all(type(side) is int and 0 <= side <= _LONGEST_SIDE for side in shape):
        raise error(f"{where}: expected an array, got shape {short(tuple(shape))}.")
    return Header(dtype, shape, "F" if fortran else "C", dtype.itemsize * math.prod(shape))


def _check_sizes(header: Header, found: int, where: str, error: type[CapgpuError], kind: str = "numbers") -> None:
    """Check that an array is one of plain numbers or texts, and that the file has their bytes."""
    if header.dtype.hasobject or header.dtype.itemsize == 0:
        raise error(f"{where}: expected {kind}, got shape {header.shape} and dtype {clipped(str(header.dtype))}.")
    if found < header.size:
        raise error(f"{where} is truncated: expected {header.size} bytes of shape {header.shape}, got {found}.")


def map_file(file: Any, dtype: np.dtype[Any], shape: tuple[int, ...], offset: int = 0, order: Any = "C") -> HostArray:
    """Map the numbers of a file, read-only; without numbers, return an empty array."""
    if 0 in shape:
        empty = np.empty(shape, dtype)
        empty.flags.writeable = False
        return empty
    file.flush()
    return np.memmap(file, dtype, "r", offset, shape, order)


def map_npy(path: str | os.PathLike[str], error: type[CapgpuError]) -> HostArray:
    """Map an ``.npy`` file.

    Parameters
    ----------
    path : path
        The file.
    error : type of CapgpuError
        Exception for a file that is damaged or truncated.

    Returns
    -------
    numpy.memmap
        Read-only.

    Raises
    ------
    CapgpuError
        Of the given type.
    OSError
        If the file cannot be read.
    """
    name = os.fspath(path)
    with open(path, "rb") as file:
        header = read_header(file, name, error)
        _check_sizes(header, os.fstat(file.fileno()).st_size - file.tell(), name, error)
        return map_file(file, header.dtype, header.shape, file.tell(), header.order)


class NpzFile:
    """The arrays of an ``.npz`` archive; `open_npz` opens one."""

    def __init__(self, path: Path, archive: zipfile.ZipFile, size: int, error: type[CapgpuError]) -> None:
        self._path, self._archive, self._size, self._error = path, archive, size, error

    @property
    def members(self) -> list[str]:
        """The names of all members of the archive, arrays or not."""
        return self._archive.namelist()

    @contextmanager
    def _open(self, name: str, kind: str | None) -> Iterator[tuple[IO[bytes], Header]]:
        """Open an array after its header; unless `kind` is None, its member must have the bytes of all numbers."""
        member = self._archive.getinfo(f"{name}.npy")
        where = f"{self._path}: {clipped(name)}"
        # other methods of compression are none of NumPy's, and have no bound of expansion
        if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise self._error(f"{where}: expected a member as numpy.savez writes it, got another compression.")
        if member.compress_size > self._size:
            raise self._error(f"{where} is truncated: expected {member.compress_size} bytes, got {self._size}.")
        check_expansion(where, member.file_size, member.compress_size, self._error)
        with self._archive.open(member) as file:
            header = read_header(file, where, self._error)
            if kind is not None:
                _check_sizes(header, member.file_size - file.tell(), where, self._error, kind)
            yield file, header

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of an array, from its header."""
        with self._open(name, None) as (_, header):
            return header.shape

    def read(self, name: str) -> HostArray:
        """Read an array of integers or texts into memory."""
        with self._open(name, "integers or texts") as (file, header):
            content = file.read(header.size)
            if len(content) < header.size:
                raise self._error(f"{self._path}: {clipped(name)} is truncated.")
            return np.frombuffer(content, header.dtype).reshape(header.shape, order=header.order)

    def map(self, name: str) -> HostArray:
        """Copy an array in parts to an unnamed temporary file, and map it."""
        with self._open(name, "numbers") as (file, header):
            parts = iter(lambda: file.read(_BYTES_AT_ONCE), b"")
            return map_copy(parts, header, f"{self._path}: {clipped(name)}", self._error)


@contextmanager
def open_npz(path: Path, error: type[CapgpuError]) -> Iterator[NpzFile]:
    """Open an ``.npz`` archive.

    Parameters
    ----------
    path : path
        The file.
    error : type of CapgpuError
        Exception for a damaged archive, raised also while arrays are read in the block.

    Yields
    ------
    NpzFile
        Its arrays.

    Raises
    ------
    CapgpuError
        Of the given type.
    OSError
        If the file cannot be read, or no temporary file be written.
    """
    with open(path, "rb") as file:  # errors of the system are raised here
        try:
            with zipfile.ZipFile(file) as archive:
                yield NpzFile(path, archive, os.fstat(file.fileno()).st_size, error)
        except CapgpuError:
            raise
        except (*_ZIP_ERRORS, OSError) as cause:
            # OSError without a file name, for a position outside of the file
            if isinstance(cause, OSError) and cause.filename is not None:
                raise
            raise error(f"{path}: expected an intact .npz file, got: {str(cause)[:100]}.") from cause


def check_expansion(where: str, size: int, stored: int, error: type[CapgpuError]) -> None:
    """Raise for compressed data that would take far more space than their file."""
    if size > _MOST_BYTES and size > _MOST_EXPANSION * stored:
        raise error(
            f"{where}: expected at most {_MOST_EXPANSION} times the {stored:,} bytes of the compressed data, got "
            f"{size:,} bytes. If it is no damaged file, store it uncompressed (numpy.save)."
        )


def check_free_space(where: str, size: int, error: type[CapgpuError]) -> None:
    """Check that the folder of temporary files has the space of a copy."""
    folder = tempfile.gettempdir()
    free = shutil.disk_usage(folder).free
    if free < size:
        raise error(f"{where}: expected {size:,} bytes of free space in {folder}, got {free:,}. {_REMEDY}")


def map_copy(parts: Iterator[Any], header: Header, where: str, error: type[CapgpuError]) -> HostArray:
    """Copy numbers to an unnamed temporary file, and map it.

    Parameters
    ----------
    parts : iterator of bytes
        The numbers; what follows the size in the header is ignored.
    header : Header
        What they are.
    where : str
        File and place, for messages.
    error : type of CapgpuError
        Exception for too few numbers, or too little space.

    Returns
    -------
    numpy.memmap
        Read-only; the file needs space in the folder of temporary files until the array is deleted.
    """
    check_free_space(where, header.size, error)
    remaining = header.size
    with name_os_errors(tempfile.gettempdir(), _REMEDY):
        file = tempfile.TemporaryFile()  # noqa: SIM115 - closed below
    with file:
        while remaining:
            block = memoryview(next(parts, b""))[:remaining]
            if not block.nbytes:
                raise error(f"{where} is truncated: {remaining} bytes are missing.")
            with name_os_errors(tempfile.gettempdir(), _REMEDY):
                file.write(block)
                file.flush()
            remaining -= block.nbytes
        return map_file(file, header.dtype, header.shape, order=header.order)
