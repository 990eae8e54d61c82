"""A small source of captioned pictures, and its preparation, for tests of `capgpu.data.prepare`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from capgpu.data.prepare import PrepareConfig, PrepareResult, prepare
from capgpu.data.source import Source
from oracles.encoders import CountingEncoder, picture_files

COUNT = 20

ANYTHING = PrepareConfig(min_count=1)


def captions_of(picture: int) -> list[str]:
    return [f"A dog number{picture}.", "Two cats"]


def write_source(folder: Path, split: Callable[[int], str] | None = None) -> Path:
    """Write a CSV file with two captions a picture, and the pictures, of which the last cannot be read."""
    picture_files(folder, COUNT, [COUNT - 1])
    lines = ["image,caption" + (",split" if split else "")]
    lines += [f"{i}.png,{text}" + (f",{split(i)}" if split else "") for i in range(COUNT) for text in captions_of(i)]
    (folder / "captions.csv").write_text("\n".join(lines))
    return folder / "captions.csv"


def make(
    source: Source, folder: Path, config: PrepareConfig = ANYTHING, encoder: Any = None, **options: Any
) -> PrepareResult:
    encoder = encoder or CountingEncoder()
    return prepare(source, folder, config, None, lambda: encoder, **options)


def contents(folder: Path) -> dict[str, bytes]:
    """Read all files but checked.json, which differs with the times of the others."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "checked.json"]
    return {str(file.relative_to(folder)): file.read_bytes() for file in files}
