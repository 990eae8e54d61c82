"""Features of many pictures, computed in stored pieces: after a kill, the computation resumes with the next piece.

Several processes divide the pieces; the files of the first process are those that it would write alone.
"""

from __future__ import annotations

import json
import math
import os
import zlib
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capgpu.checkpoint import atomic_write
from capgpu.data.text_files import DataFileError
from capgpu.distributed import Communicator
from capgpu.errors import InvalidValueError, name_os_errors
from capgpu.file_formats.json_text import JsonObject, parse_json

if TYPE_CHECKING:
    from capgpu.vision import PictureEncoder

__all__ = ["PIECE", "Helpers", "collect_features", "compute_share"]

#: Pictures per piece: at most so many are computed again after a kill.
PIECE = 64


def collect_features(
    encoder: PictureEncoder,
    files: Sequence[Path],
    folder: Path,
    progress: Callable[[int], None] = lambda done: None,
    helpers: Helpers | None = None,
) -> tuple[npt.NDArray[Any], list[int], list[str]]:
    """Compute the features of pictures, and store every piece.

    Parameters
    ----------
    encoder : PictureEncoder
        Computes the features.
    files : sequence of N paths
        The pictures.
    folder : path
        Existing folder of the pieces, used for these files and this encoder only. Pieces with a picture that has
        changed are computed again.
    progress : callable
        Called with the number of finished pictures, including those of earlier runs.
    helpers : Helpers, optional
        Other processes, which compute pieces, too.

    Returns
    -------
    features : numpy.memmap, shape (M, D) or (M, L, D)
        Features of the readable pictures, mapped from a file in the folder.
    kept : list of M int
        Their increasing indices in `files`.
    broken : list of N - M str
        Path and cause for each other picture.

    Raises
    ------
    OSError
        If a file cannot be written; finished pieces are kept.
    """
    if helpers is not None:
        helpers.begin(encoder, files, folder)
        _compute_share(encoder, files, folder, helpers.communicator, progress)
    kept: list[int] = []
    broken: list[str] = []
    rows = folder / "features.bin"
    with name_os_errors(rows), open(rows, "wb") as out:
        for start in range(0, len(files), PIECE):
            part = files[start : start + PIECE]
            features, readable, messages = _piece(encoder, part, folder, start)
            out.write(features.data)
            kept.extend(start + index for index in readable)
            broken.extend(messages)
            progress(start + len(part))
    if not kept:
        return np.empty((0, *encoder.shape), encoder.dtype), kept, broken
    return np.memmap(rows, encoder.dtype, "r", shape=(len(kept), *encoder.shape)), kept, broken


class Helpers:
    """The other ranks, as rank 0 sees them: they wait in `compute_share` until it has work for them.

    As a context manager: at its end, ranks that still wait get no work, or the error of rank 0.

    Parameters
    ----------
    communicator : Communicator
        Joins the ranks.
    """

    def __init__(self, communicator: Communicator) -> None:
        self.communicator = communicator
        self._waiting = communicator.size > 1

    def begin(self, encoder: PictureEncoder, files: Sequence[Path], folder: Path) -> None:
        """Start the other ranks on their pieces.

        Parameters
        ----------
        encoder, files, folder
            As for `collect_features`.
        """
        self._send(lambda: [list(map(os.fspath, files)), os.fspath(folder.absolute()), encoder.sha256])

    def __enter__(self) -> Helpers:
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        def fail() -> None:
            if isinstance(error, Exception):
                raise error

        if isinstance(error, Exception):
            with suppress(type(error)):  # the block's own, which goes on
                self._send(fail)
        elif error is None:
            self._send(lambda: None)

    def _send(self, work: Callable[[], Any]) -> None:
        if self._waiting:
            self._waiting = False
            self.communicator.from_root(work)


def compute_share(open_encoder: Callable[[], PictureEncoder], communicator: Communicator) -> None:
    """Compute the pieces of this process, whose rank is above 0, when rank 0 calls `collect_features`.

    Parameters
    ----------
    open_encoder : callable
        Opens the encoder of rank 0.
    communicator : Communicator
        Joins the processes.

    Raises
    ------
    DataFileError
        If the folder of rank 0 does not exist here.
    ValueError
        If the encoder is another one than that of rank 0.
    Exception
        The error of rank 0, if it has no work because of one.
    OSError
        If a file cannot be written; finished pieces are kept.
    """
    work = communicator.from_root(lambda: None)
    if work is None:
        return
    names, path, sha256 = work
    files, folder = list(map(Path, names)), Path(path)
    if not folder.is_dir():
        raise DataFileError(
            f"{folder}: expected the folder that rank 0 writes, got no such folder on this machine. Prepare into a "
            "folder that all machines share."
        )
    encoder = open_encoder()
    if encoder.sha256 != sha256:
        raise InvalidValueError(
            f"{encoder.name}: expected the network of rank 0, with SHA-256 {sha256}, got {encoder.sha256}. Copy the "
            "same file to every machine."
        )
    _compute_share(encoder, files, folder, communicator, lambda done: None)


def _compute_share(
    encoder: PictureEncoder,
    files: Sequence[Path],
    folder: Path,
    communicator: Communicator,
    progress: Callable[[int], None],
) -> None:
    """Store the pieces of this rank, one in communicator.size, and wait for those of the others."""
    for start in range(communicator.rank * PIECE, len(files), communicator.size * PIECE):
        _piece(encoder, files[start : start + PIECE], folder, start)
        # the pieces of all ranks that exist; those of changed pictures count before they are computed again
        progress(min(PIECE * sum(1 for _ in folder.glob("piece-*.bin")), len(files)))
    communicator.barrier()


def _piece(
    encoder: PictureEncoder, files: Sequence[Path], folder: Path, start: int
) -> tuple[npt.NDArray[Any], list[int], list[str]]:
    """Return features, readable indices and messages of a piece, which is computed unless it is stored."""
    path = folder / f"piece-{start:08d}.bin"
    state = [_state(file) for file in files]
    stored = _read(path, state, encoder)
    if stored is None:
        encoded = encoder.encode(files)
        stored = encoded.features, encoded.kept, [message for _, message in encoded.broken]
        _write(path, state, *stored)
    return stored


def _state(file: Path) -> list[int]:
    """Return size, time and mode of a file, which change with its content; nothing for a missing file."""
    try:
        stat = file.stat()
    except (OSError, ValueError):
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_mode]


def _write(path: Path, state: list[list[int]], features: npt.NDArray[Any], kept: list[int], broken: list[str]) -> None:
    """Write a piece: a line with the checksum of the rest, a line of JSON, the features."""
    head = json.dumps({"state": state, "kept": kept, "broken": broken})
    content = head.encode() + b"\n" + features.tobytes()
    with atomic_write(path) as file:
        file.write(b"%08x\n" % zlib.crc32(content) + content)


def _read(
    path: Path, state: list[list[int]], encoder: PictureEncoder
) -> tuple[npt.NDArray[Any], list[int], list[str]] | None:
    """Read a piece; None if it is missing or damaged, or of files or features that have changed."""
    try:
        checksum, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if checksum != b"%08x" % zlib.crc32(content):
        return None
    head, _, rows = content.partition(b"\n")
    try:
        stored = JsonObject(parse_json(head, DataFileError), str(path), DataFileError)
        kept, broken, rows_of_piece = stored.entries("kept"), stored.texts("broken"), range(len(state))
        described = stored.entries("state")
    except DataFileError:
        return None  # of another version: computed again
    size = encoder.dtype.itemsize * math.prod(encoder.shape)
    whole = len(kept) + len(broken) == len(state) and len(rows) == size * len(kept)
    if described != state or not whole or any(type(row) is not int or row not in rows_of_piece for row in kept):
        return None
    if kept != sorted(set(kept)):
        return None
    return np.frombuffer(rows, encoder.dtype).reshape(-1, *encoder.shape), kept, broken
