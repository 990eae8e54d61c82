"""Captions of picture files: what capgpu caption PICTURE... prints and writes."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click
import numpy as np
import numpy.typing as npt

from capgpu.backend import asarray, to_numpy
from capgpu.checkpoint import CheckpointError, atomic_write
from capgpu.vocabulary import START, caption_text

if TYPE_CHECKING:
    from capgpu.cli.runs import Run
    from capgpu.model import CaptioningRNN

__all__ = ["caption_files"]

_MAX_LENGTH = 30
_SMALLEST_PERCENTAGE = 0.001


def caption_files(run: Run, paths: Sequence[Path], json_file: str | None) -> int:
    """Caption picture files; print a table, or write JSON.

    Parameters
    ----------
    run : Run
        The run whose model writes.
    paths : sequence of N paths
        The pictures, one at least.
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
    captions = dict(zip(encoded.kept, _write_captions(model, encoded.features), strict=True))
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


class _Caption(NamedTuple):
    text: str
    probability: float


def _write_captions(model: CaptioningRNN, features: npt.NDArray[np.float32]) -> list[_Caption]:
    """Write captions greedily, and ask the model for the probability of each: of all its words and its end."""
    ids = to_numpy(model.sample(asarray(features), _MAX_LENGTH, stop_at_end=True)).astype(np.int64)
    start = np.full((1, 1), model.word_to_idx[START])
    captions = []
    for row, feature in zip(ids, features, strict=True):
        nll, _ = model.nll(asarray(feature[None]), np.concatenate([start, row[None]], axis=1))
        captions.append(_Caption(str(caption_text(row, model.idx_to_word)), math.exp(-float(to_numpy(nll)))))
    return captions


def _entry(caption: _Caption) -> dict[str, Any]:
    return {"caption": caption.text, "probability": caption.probability}


def _write_json(target: str, entries: list[dict[str, Any]]) -> None:
    text = json.dumps(entries, indent=2, ensure_ascii=False, allow_nan=False)
    if target == "-":
        click.echo(text)
        return
    with atomic_write(target, "w") as file:
        file.write(text + "\n")


def _print(captions: list[tuple[Path, _Caption]]) -> None:
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
