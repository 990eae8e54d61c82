"""The process that reads HDF5 files: `capgpu.file_formats.hdf5` starts it, and asks it for structure and numbers.

Requests are lines of JSON on standard input; each is answered by a line of JSON on standard output, that of numbers
that cannot be mapped by one such line before each block of bytes. The kernel ends the process if a request takes more
processor time than a file of that size needs.
"""

from __future__ import annotations

import importlib
import json
import math
import os
import signal
import sys
from collections.abc import Iterator
from typing import IO, Any

import numpy as np

from capgpu.errors import CapgpuError
from capgpu.file_formats.npy import check_expansion
from capgpu.visible_text import clipped, short

__all__ = ["main"]

_BYTES_AT_ONCE = 16 << 20
#: Chunks of compressed datasets are decompressed whole.
_MOST_BYTES_OF_CHUNK = 1 << 28
#: What `read` returns is held in memory.
_MOST_BYTES_READ = 1 << 30
#: Memory that the HDF5 library may reserve.
_MOST_BYTES = 8 << 30
#: Processor time of a request: a file of some kilobytes needs milliseconds, and decompression runs at over 1 MiB of
#: compressed data per second on any machine.
_SECONDS, _SECONDS_PER_BYTE = 3.0, 1.0 / (1 << 20)
#: The exceptions of h5py for damaged files; its ``RuntimeError`` and ``OSError`` carry messages of the HDF5 library.
_H5_ERRORS = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, ArithmeticError, IndexError)


class _RefusedError(CapgpuError, ValueError):
    """A file that is not read; its message is that of the exception that the parent raises."""


class _File:
    """An open file; the methods answer requests."""

    def __init__(self, h5py: Any, path: str, absolute: str) -> None:
        self.path, self._h5py = path, h5py
        try:
            self._file = h5py.File(absolute, "r")
        except (*_H5_ERRORS, MemoryError) as error:
            raise self._damaged(error) from error

    def close(self) -> None:
        self._file.close()

    def _damaged(self, error: BaseException) -> _RefusedError:
        text = str(error)[:200] or type(error).__name__
        return _RefusedError(f"{self.path}: expected an intact HDF5 file, got: {text}. Download it again.")

    def shapes(self) -> dict[str, list[int] | None]:
        """Return the shape of each dataset in any group; None for other objects of the root group."""
        shapes: dict[str, list[int] | None] = {}
        try:
            self._check_links()
            shapes |= dict.fromkeys(map(_text, self._file))
            self._file.visititems(lambda name, item: _note_shape(shapes, name, item))
        except CapgpuError:
            raise
        except (*_H5_ERRORS, MemoryError) as error:
            raise self._damaged(error) from error
        return shapes

    def _check_links(self) -> None:
        """Raise for links to other files, before the library opens them."""
        inside = self._h5py.h5l.TYPE_HARD, self._h5py.h5l.TYPE_SOFT
        name = self._file.id.links.visit(lambda name, info: None if info.type in inside else name, info=True)
        if name is not None:
            target = getattr(self._file.get(name, getlink=True), "filename", "another file")
            self._refuse_external(name.decode("utf-8", "replace"), f"a link to {short(target)}")

    def _refuse_external(self, name: str, found: str) -> None:
        raise _RefusedError(
            f"{self.path}: {clipped(name)}: expected data in the file itself, got {found}. Copy them into one file, "
            "for example with h5repack or h5py."
        )

    def map(self, name: str) -> Iterator[dict[str, Any] | memoryview]:
        """Yield where the numbers of a dataset are in the file, or the numbers in blocks."""
        try:
            dataset = self._file.get(name)
            if not hasattr(dataset, "shape") or dataset.shape is None or dataset.dtype.kind not in "iuf":
                names = ", ".join(map(str, self._file))[:80] or "nothing"
                raise _RefusedError(f"{self.path}: expected a numeric dataset {name!r}, got {names}.")
            self._check(dataset)
            offset = dataset.id.get_offset()
            contiguous = dataset.dtype.isnative and dataset.id.get_storage_size() == dataset.nbytes
            if offset is not None and contiguous and not self._file.userblock_size:
                yield _described(dataset.dtype, dataset.shape, offset=offset)
            else:
                native = dataset.dtype.newbyteorder("=")
                yield _described(native, dataset.shape)
                for block in _blocks(dataset):
                    yield np.ascontiguousarray(block, native).reshape(-1).view(np.uint8).data
        except CapgpuError:
            raise
        except (TypeError, ValueError, KeyError, ArithmeticError) as error:  # raised by h5py for damaged headers
            raise _RefusedError(
                f"{self.path}: {name!r} cannot be read: {str(error)[:200]}. Download the file again."
            ) from error
        except (*_H5_ERRORS, MemoryError) as error:
            raise self._damaged(error) from error

    def read(self, name: str) -> Iterator[dict[str, Any] | memoryview]:
        """Yield the integers or texts of a dataset, texts of any length as those of the longest."""
        where = f"{self.path}: {clipped(name)}"
        try:
            dataset = self._file[name]
            if dataset.dtype.kind == "O":
                dataset.asstr()  # raises an exception for objects that are no texts
            self._check(dataset)
            if dataset.nbytes > _MOST_BYTES_READ:
                raise _RefusedError(f"{where}: expected at most 1 GiB of image ids, got {dataset.nbytes:,}.")
            stored = np.array(dataset.asstr()[...], str) if dataset.dtype.kind == "O" else dataset[...]
            values = np.ascontiguousarray(stored)
            if values.dtype.hasobject or values.nbytes > _MOST_BYTES_READ:
                raise _RefusedError(f"{where}: expected integers or texts, got {values.nbytes:,} bytes of others.")
            content = values.reshape(-1).view(np.uint8).data
        except CapgpuError:
            raise
        except (*_H5_ERRORS, MemoryError) as error:
            text = str(error)[:200] or type(error).__name__
            raise _RefusedError(f"{where}: expected integers or texts, got: {text}.") from error
        yield _described(values.dtype, stored.shape)
        yield content

    def _check(self, dataset: Any) -> None:
        """Raise for data of other files, and incomplete datasets: HDF5 reads parts that were never written as zeros."""
        where = f"{self.path}: {clipped(dataset.name)}"
        if dataset.is_virtual:
            self._refuse_external(dataset.name, "a virtual dataset")
        if dataset.external:
            self._refuse_external(dataset.name, f"data in {short(dataset.external[0][0])}")
        stored = dataset.id.get_storage_size()
        if dataset.chunks is not None:
            counts = (-(-extent // chunk) for extent, chunk in zip(dataset.shape, dataset.chunks, strict=True))
            complete = dataset.id.get_num_chunks() >= math.prod(counts)
            check_expansion(where, dataset.nbytes, stored, _RefusedError)
            if math.prod(dataset.chunks) * dataset.dtype.itemsize > _MOST_BYTES_OF_CHUNK:
                raise _RefusedError(
                    f"{where}: expected chunks of at most {_MOST_BYTES_OF_CHUNK >> 20} MiB, got shape "
                    f"{dataset.chunks}. Store it with smaller chunks, or without."
                )
        else:
            # numbers of types that NumPy lacks are stored in another width than they are read in
            complete = stored >= dataset.id.get_type().get_size() * dataset.size
        if not complete:
            raise _RefusedError(
                f"{where}: expected a complete dataset of shape {dataset.shape}, got a part: the file is truncated or "
                "damaged. Create or download it again."
            )


def _text(name: str | bytes) -> str:
    """Return a name that h5py returns as bytes if it is no UTF-8."""
    return name if isinstance(name, str) else name.decode("utf-8", "backslashreplace")


def _note_shape(shapes: dict[str, list[int] | None], name: str | bytes, item: Any) -> None:
    shape = getattr(item, "shape", None)
    if shape is not None:
        shapes[_text(name)] = list(shape)


def _described(dtype: np.dtype[Any], shape: tuple[int, ...], offset: int | None = None) -> dict[str, Any]:
    return {"dtype": dtype.str, "shape": list(shape), "offset": offset}


def _blocks(dataset: Any) -> Iterator[Any]:
    """Yield the numbers of a dataset in blocks of rows."""
    if not dataset.shape:
        yield dataset[()]
        return
    width = max(dataset.dtype.itemsize * math.prod(dataset.shape[1:]), 1)
    step = max(_BYTES_AT_ONCE // width, 1)
    for start in range(0, dataset.shape[0], step):
        yield dataset[start : start + step]


def _allow_seconds(seconds: float) -> None:
    """Limit the processor time of this process, which the kernel then ends; 0 for no limit."""
    if hasattr(signal, "setitimer"):  # a signal of the kernel also ends a library that does not return
        signal.setitimer(signal.ITIMER_PROF, seconds)


def _limit_process() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "SIGPROF"):
        import resource

        signal.signal(signal.SIGPROF, signal.SIG_DFL)
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        limit = _MOST_BYTES if hard == resource.RLIM_INFINITY else min(_MOST_BYTES, hard)
        resource.setrlimit(resource.RLIMIT_AS, (limit, hard))


def _answer(parts: Iterator[dict[str, Any] | memoryview], seconds: float, out: IO[bytes]) -> None:
    """Write the parts of an array, each within its time."""
    while True:
        _allow_seconds(seconds)
        part = next(parts, None)
        _allow_seconds(0)
        if part is None:
            _write(out, {"done": True})
            return
        if isinstance(part, dict):
            _write(out, part)
        else:
            _write(out, {"bytes": part.nbytes})
            out.write(part)


def _write(out: IO[bytes], answer: dict[str, Any]) -> None:
    out.write(json.dumps(answer).encode() + b"\n")


def main() -> None:
    """Answer requests until the end of standard input."""
    _limit_process()
    # the library's own output must not get between the answers
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    h5py = importlib.import_module("h5py")

    file, seconds = None, _SECONDS
    for line in sys.stdin.buffer:
        request = json.loads(line)
        kind = request["do"]
        try:
            if kind == "open":
                seconds = _SECONDS + _SECONDS_PER_BYTE * request["bytes"]
            _allow_seconds(seconds)
            if kind == "open":
                file = _File(h5py, request["path"], request["absolute"])
                _write(out, {"shapes": file.shapes()})
            elif file is None:
                _write(out, {"done": True})
            elif kind == "close":
                file.close()
                file = None
                _write(out, {"done": True})
            else:
                _answer(file.map(request["name"]) if kind == "map" else file.read(request["name"]), seconds, out)
        except CapgpuError as error:
            _write(out, {"error": str(error)})
        finally:
            _allow_seconds(0)
        out.flush()
