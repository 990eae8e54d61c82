"""Captions of picture files: what capgpu caption PICTURE... prints and writes."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capgpu.checkpoint import CheckpointError, atomic_write

if TYPE_CHECKING:
    from capgpu.decode import Decoding
    from capgpu.evaluation.captioning import Caption
    from capgpu.training.run_folder import RunFolder

__all__ = ["caption_files"]

_SMALLEST_PERCENTAGE = 0.001


def caption_files(run: RunFolder, paths: Sequence[Path], decoding: Decoding, json_file: str | None) -> int:
    """Caption picture files; print a table, or write JSON.

    Parameters
    ----------
    run : RunFolder
        The run whose model writes.
    paths : sequence of N paths
        The pictures, one at least.
    decoding : Decoding
        How captions are written.
    json_file : str or None
        Where to write an array with an object for each path, in their order: ``picture``, and ``caption``,
        ``probability``, or ``error``. ``"-"`` is standard output,
        which then gets nothing else.

    Returns
    -------
    int
        The exit status: 0, or 1 if pictures were skipped.

    Raises
    ------
    CheckpointError
        If the run has no model or encoder that can be loaded, or they do not fit each other.
    ValueError
        If no picture can be read, or the run's features were computed elsewhere.
    MissingExtraError
        If a package of the extra ``vision`` is not installed.
    OSError
        If the JSON file cannot be written.
    """
    from capgpu.evaluation.captioning import write_captions

    model = run.load_model()
    encoder = run.load_encoder()
    if encoder.dim != model.config["input_dim"]:
        raise CheckpointError(
            f"{run.path} does not fit together: its model takes features of length {model.config['input_dim']}, its "
            f"encoder gives {encoder.dim}. Train again."
        )
    encoded = encoder.encode(paths)
    for _, cause in encoded.broken:
        click.echo(f"capgpu: skipped {cause}", err=True)
    if not encoded.kept:
        raise ValueError(f"no picture can be read ({len(paths)} given).")
    captions = dict(zip(encoded.kept, write_captions(model, encoded.features, decoding), strict=True))
    if json_file is not None:
        causes = dict(encoded.broken)
        _write_json(
            json_file,
            [
                {"picture": str(path), **(_entry(captions[i]) if i in captions else {"error": causes[i]})}
                for i, path in enumerate(paths)
            ],
        )
    if json_file != "-":
        _print([(paths[i], caption) for i, caption in captions.items()])
    return 1 if encoded.broken else 0


def _entry(caption: Caption) -> dict[str, Any]:
    return {"caption": caption.text, "probability": caption.probability}


def _write_json(target: str, entries: list[dict[str, Any]]) -> None:
    if target == "-":
        click.echo(_json(entries, sys.stdout.encoding))
        return
    with atomic_write(target, "w") as file:
        file.write(_json(entries, "utf-8") + "\n")


def _json(entries: list[dict[str, Any]], encoding: str) -> str:
    """Write JSON, with escapes where the encoding lacks a letter; UTF-8 lacks odd bytes in a file's name."""
    text = json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False)
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(entries, indent=2, allow_nan=False)
    return text


def _print(captions: list[tuple[Path, Caption]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from capgpu.cli.console import console

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("caption", overflow="fold", ratio=2)
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("picture", overflow="fold", ratio=1)
    for path, caption in captions:
        table.add_row(Text(caption.text), _percentage(caption.probability), Text(str(path)))
    console().print(table)


def _percentage(probability: float) -> str:
    return f"{probability:.1%}" if probability >= _SMALLEST_PERCENTAGE else f"{probability:.0e}"
