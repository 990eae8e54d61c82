"""Features of many pictures, computed in stored pieces: after a kill, the computation resumes with the next piece."""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capgpu.checkpoint import atomic_write
from capgpu.data.text_files import DataFileError
from capgpu.errors import name_os_errors
from capgpu.file_formats.json_text import JsonObject, parse_json

if TYPE_CHECKING:
    from capgpu.vision import PictureEncoder

__all__ = ["PIECE", "collect_features"]

#: Pictures per piece: at most so many are computed again after a kill.
PIECE = 64


def collect_features(
    encoder: PictureEncoder,
    files: Sequence[Path],
    folder: Path,
    progress: Callable[[int], None] = lambda done: None,
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
    kept: list[int] = []
    broken: list[str] = []
    rows = folder / "features.bin"
    with name_os_errors(rows), open(rows, "wb") as out:
        for start in range(0, len(files), PIECE):
            part = files[start : start + PIECE]
            piece = folder / f"piece-{start:08d}.bin"
            state = [_state(file) for file in part]
            stored = _read(piece, state, encoder)
            if stored is None:
                encoded = encoder.encode(part)
                stored = encoded.features, encoded.kept, [message for _, message in encoded.broken]
                _write(piece, state, *stored)
            features, readable, messages = stored
            out.write(features.data)
            kept.extend(start + index for index in readable)
            broken.extend(messages)
            progress(start + len(part))
    if not kept:
        return np.empty((0, *encoder.shape), encoder.dtype), kept, broken
    return np.memmap(rows, encoder.dtype, "r", shape=(len(kept), *encoder.shape)), kept, broken


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
        kept, broken, places = stored.entries("kept"), stored.texts("broken"), range(len(state))
        described = stored.entries("state")
    except DataFileError:
        return None  # of another version: computed again
    size = encoder.dtype.itemsize * math.prod(encoder.shape)
    whole = len(kept) + len(broken) == len(state) and len(rows) == size * len(kept)
    if described != state or not whole or any(type(place) is not int or place not in places for place in kept):
        return None
    if kept != sorted(set(kept)):
        return None
    return np.frombuffer(rows, encoder.dtype).reshape(-1, *encoder.shape), kept, broken
