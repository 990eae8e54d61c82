"""An encoder of pictures without a network, which counts its work."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from capgpu.checkpoint import atomic_write
from capgpu.vision import Encoded, Projection


class CountingEncoder:
    """It reads files that begin with PIC; the features are made of the checksum of the rest."""

    sha256 = "0123456789abcdef"

    def __init__(self, dim: int = 4, projection: Projection | None = None, grid: int | None = None) -> None:
        self.network_dim = dim
        self.grid = grid
        self.projection = projection
        self.seen: list[str] = []

    @property
    def dim(self) -> int:
        return self.network_dim if self.projection is None else self.projection.components.shape[1]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.dim,) if self.grid is None else (self.grid**2, self.dim)

    @property
    def dtype(self) -> np.dtype[Any]:
        return np.dtype(np.float32 if self.grid is None else np.float16)

    def features(self, path: Path) -> npt.NDArray[Any]:
        digest = hashlib.sha256(path.read_bytes()).digest()
        cells = 1 if self.grid is None else self.grid**2
        numbers = np.frombuffer(digest, np.uint8)[: cells * self.network_dim].astype(self.dtype)
        return numbers if self.grid is None else numbers.reshape(cells, self.network_dim)

    def encode(self, paths: Sequence[Path]) -> Encoded:
        self.seen += [path.name for path in paths]
        readable, broken = [], []
        for i, path in enumerate(paths):
            if path.is_file() and path.read_bytes().startswith(b"PIC"):
                readable.append(i)
            else:
                broken.append((i, f"{path}: is no picture"))
        rows = [self.features(paths[i]) for i in readable]
        shape = len(readable), *self.shape[:-1], self.network_dim
        return Encoded(np.array(rows, self.dtype).reshape(shape), readable, broken)

    def with_projection(self, projection: Projection | None) -> Any:
        return CountingEncoder(self.network_dim, projection, self.grid)

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        with atomic_write(folder / "encoder.json", "w") as file:
            file.write(f'{{"dim": {self.dim}}}')


def picture_files(folder: Path, count: int, broken: Sequence[int] = ()) -> list[Path]:
    """Write files that `CountingEncoder` reads, and some that it does not."""
    folder.mkdir(parents=True, exist_ok=True)
    files = [folder / f"{i}.png" for i in range(count)]
    for i, file in enumerate(files):
        file.write_text(f"no {i}" if i in broken else f"PIC {i}")
    return files
