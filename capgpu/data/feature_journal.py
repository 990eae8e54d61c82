"""Features of many pictures, computed piece by piece and kept: a run that was killed goes on where it stopped."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capgpu.checkpoint import atomic_write

if TYPE_CHECKING:
    from capgpu.vision import PictureEncoder

__all__ = ["PIECE", "collect_features"]

#: Pictures in a piece: what a kill costs at most.
PIECE = 64


def collect_features(
    encoder: PictureEncoder,
    files: Sequence[Path],
    folder: Path,
    progress: Callable[[int], None] = lambda done: None,
) -> tuple[npt.NDArray[np.float32], list[int], list[str]]:
    """Compute the features of pictures, and keep every piece of the work.

    Parameters
    ----------
    encoder : PictureEncoder
        What computes them.
    files : sequence of N paths
        The pictures.
    folder : path
        Where pieces are kept, and found again; it must exist, and belong to these files and this encoder alone. A piece
        with a picture that has changed since is made anew.
    progress : callable
        Called with the number of pictures that are done, also with those of earlier runs.

    Returns
    -------
    features : numpy.memmap of float32, shape (M, D)
        Of the pictures that could be read, mapped from a file in the folder.
    kept : list of M int
        Their places in `files`, rising.
    broken : list of N - M str
        The other pictures: path and cause.

    Raises
    ------
    OSError
        As the system gives it; finished pieces stay.
    """
    kept: list[int] = []
    broken: list[str] = []
    rows = folder / "features.f32"
    with open(rows, "wb") as out:
        for start in range(0, len(files), PIECE):
            some = files[start : start + PIECE]
            piece = folder / f"piece-{start:08d}.bin"
            state = [_state(file) for file in some]
            stored = _read(piece, state, encoder.dim)
            if stored is None:
                encoded = encoder.encode(some)
                stored = encoded.features, encoded.kept, [message for _, message in encoded.broken]
                _write(piece, state, *stored)
            features, own, messages = stored
            out.write(features.data)
            kept.extend(start + place for place in own)
            broken.extend(messages)
            progress(start + len(some))
    if not kept:
        return np.empty((0, encoder.dim), np.float32), kept, broken
    return np.memmap(rows, np.float32, "r", shape=(len(kept), encoder.dim)), kept, broken


def _state(file: Path) -> list[int]:
    """Tell what a change of the file would change."""
    try:
        stat = file.stat()
    except (OSError, ValueError):
        return []
    return [stat.st_size, stat.st_mtime_ns, stat.st_mode]


def _write(
    path: Path, state: list[list[int]], features: npt.NDArray[np.float32], kept: list[int], broken: list[str]
) -> None:
    """Write a piece: a line with the checksum of the rest, a line of JSON, the features."""
    head = json.dumps({"state": state, "kept": kept, "broken": broken})
    content = head.encode() + b"\n" + features.tobytes()
    with atomic_write(path) as file:
        file.write(b"%08x\n" % zlib.crc32(content) + content)


def _read(path: Path, state: list[list[int]], dim: int) -> tuple[npt.NDArray[np.float32], list[int], list[str]] | None:
    """Read a piece; None if it is not there, not whole, of files in another state, or of another length of features."""
    try:
        checksum, _, content = path.read_bytes().partition(b"\n")
    except OSError:
        return None
    if checksum != b"%08x" % zlib.crc32(content):
        return None
    head, _, rows = content.partition(b"\n")
    stored: dict[str, Any] = json.loads(head)
    if stored["state"] != state or len(rows) != 4 * dim * len(stored["kept"]):
        return None
    return np.frombuffer(rows, np.float32).reshape(-1, dim), stored["kept"], stored["broken"]
