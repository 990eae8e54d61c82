"""Arrays of HDF5 files, read in a process of its own.

On a damaged file the HDF5 library can run for minutes, in which not even Ctrl-C stops it, or end the process. A second
process opens the file and reads what it must; numbers that are contiguous in the file are mapped without it. It is
started by the first file (about half a second), serves those that follow, and ends with this process.
"""

from __future__ import annotations

import atexit
import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt

from capgpu.errors import CapgpuError
from capgpu.file_formats.npy import Header, map_copy, map_file
from capgpu.optional_deps import require
from capgpu.visible_text import clipped

__all__ = ["Hdf5File", "open_hdf5"]

_PROGRAM = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); from capgpu.file_formats.hdf5_process import main; main()"
)

_BYTES_AT_ONCE = 1 << 20
#: Keys of the line that ends an answer.
_LAST = {"shapes", "done", "error"}


class _Process:
    """A process that reads HDF5 files, one at a time."""

    def __init__(self) -> None:
        path = [entry for entry in sys.path if isinstance(entry, str)]
        self._process = subprocess.Popen(
            [sys.executable, "-I", "-c", _PROGRAM, json.dumps(path)],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},  # its memory is limited, and threads reserve some
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for this process alone
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        self._answering = False

    def ask(self, **request: Any) -> None:
        """Send a request."""
        self._answering = True
        with contextlib.suppress(BrokenPipeError):  # `answer` finds that the process has ended
            self._requests.write(json.dumps(request).encode() + b"\n")
            self._requests.flush()

    def answer(self) -> dict[str, Any] | None:
        """Return the next line of an answer; None if the process has ended."""
        line = self._answers.readline()
        answer: dict[str, Any] | None = json.loads(line) if line.endswith(b"\n") else None
        if answer is not None and _LAST & answer.keys():
            self._answering = False
        return answer

    def read(self, size: int) -> bytes:
        """Return the block of bytes that follows a line."""
        return self._answers.read(size)

    def close_file(self) -> bool:
        """Close the file; return whether the process can read another."""
        if self._answering:  # an error of this process, or Ctrl-C, came before the end of an answer
            return False
        self.ask(do="close")
        return self.answer() == {"done": True}

    def status(self) -> int:
        """Return the exit status of a process that has ended."""
        return self._process.wait()

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        with contextlib.suppress(BrokenPipeError):
            self._requests.close()
        self._answers.close()


#: The process that waits for the next file, if there is one.
_idle: list[_Process] = []


class Hdf5File:
    """The arrays of an HDF5 file; `open_hdf5` opens one.

    Attributes
    ----------
    shapes : dict of str to tuple of int or None
        The shape of each dataset, in any group, by its path; None for other entries of the root group.
    """

    def __init__(self, path: str, process: _Process, error: type[CapgpuError]) -> None:
        self._path, self._process, self._error = path, process, error
        self._size = os.path.getsize(path)
        process.ask(do="open", path=path, absolute=os.path.abspath(path), bytes=self._size)
        shapes = self._answer()["shapes"]
        self.shapes = {name: None if shape is None else tuple(shape) for name, shape in shapes.items()}

    def _answer(self) -> dict[str, Any]:
        """Return the next line of an answer; raise the error that it reports."""
        answer = self._process.answer()
        if answer is None:
            status = self._process.status()
            found = f"one on which the HDF5 library ended with status {status}"
            if hasattr(signal, "SIGPROF") and status == -signal.SIGPROF:
                found = "one that the HDF5 library did not read in the time that its size needs"
            raise self._error(f"{self._path}: expected an intact HDF5 file, got {found}. Download it again.")
        if "error" in answer:
            raise self._error(answer["error"])
        return answer

    def _header(self) -> tuple[Header, int | None]:
        answer = self._answer()
        dtype, shape = np.dtype(answer["dtype"]), tuple(answer["shape"])
        return Header(dtype, shape, "C", dtype.itemsize * int(np.prod(shape, dtype=object))), answer["offset"]

    def _blocks(self) -> Iterator[bytes]:
        """Yield the blocks of an answer, up to its end."""
        while "bytes" in (answer := self._answer()):
            remaining = answer["bytes"]
            while remaining:
                piece = self._process.read(min(remaining, _BYTES_AT_ONCE))
                remaining = remaining - len(piece) if piece else 0  # none where the process has ended
                yield piece

    def map(self, name: str) -> npt.NDArray[Any]:
        """Map a dataset of numbers, read-only, also for the time after the file is closed.

        Parameters
        ----------
        name : str
            Its path.

        Returns
        -------
        numpy.ndarray
            In native byte order; a copy in an unnamed temporary file unless the file has it so, contiguously.

        Raises
        ------
        CapgpuError
            Of the file's type, if there is no such dataset, or it is damaged, incomplete or in another file.
        """
        where = f"{self._path}: {clipped(name)}"
        self._process.ask(do="map", name=name)
        header, offset = self._header()
        blocks = self._blocks()
        if offset is None:
            copy = map_copy(blocks, header, where, self._error)
            for _ in blocks:
                pass
            return copy
        for _ in blocks:  # there are none: this reads the end of the answer
            pass
        if offset + header.size > self._size:
            raise self._error(f"{where} is truncated: expected {header.size} bytes at {offset} of {self._size}.")
        with open(self._path, "rb") as file:
            return map_file(file, header.dtype, header.shape, offset)

    def read(self, name: str) -> npt.NDArray[Any]:
        """Read a dataset of integers or texts into memory.

        Parameters
        ----------
        name : str
            Its path.

        Returns
        -------
        numpy.ndarray
            Its values.

        Raises
        ------
        CapgpuError
            As for `map`, and for more than 1 GiB.
        """
        self._process.ask(do="read", name=name)
        header, _ = self._header()
        content = b"".join(self._blocks())
        if len(content) < header.size:
            raise self._error(f"{self._path}: {clipped(name)} is truncated.")
        return np.frombuffer(content, header.dtype).reshape(header.shape)


@contextmanager
def open_hdf5(path: str | os.PathLike[str], error: type[CapgpuError]) -> Iterator[Hdf5File]:
    """Open an HDF5 file. Data that it refers to in other files are refused.

    Parameters
    ----------
    path : path
        The file.
    error : type of CapgpuError
        Exception for a damaged file, raised also while arrays are read in the block.

    Yields
    ------
    Hdf5File
        Its arrays.

    Raises
    ------
    CapgpuError
        Of the given type, also for a file on which the HDF5 library does not return, or ends its process.
    MissingExtraError
        If h5py is not installed.
    OSError
        If the file cannot be read.
    """
    name = os.fspath(path)
    require("h5py", "h5", f"Reading {name}, an HDF5 file,")
    with open(path, "rb"):
        pass  # errors of the system are raised here
    process = _idle.pop() if _idle else _Process()
    try:
        yield Hdf5File(name, process, error)
    finally:
        if not _idle and process.close_file():
            _idle.append(process)
        else:
            process.end()


def _end() -> None:
    while _idle:
        _idle.pop().end()


atexit.register(_end)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)
