"""HTML of a run for notebooks: model, loss curve, and some captioned pictures."""

from __future__ import annotations

import base64
import html
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from capgpu.data.arrays import splits_of
from capgpu.data.datasets import open_dataset
from capgpu.errors import CapgpuError, InvalidValueError
from capgpu.evaluation.captioning import write_captions
from capgpu.evaluation.selection import linspace_indices
from capgpu.file_formats.content import read_content
from capgpu.file_formats.json_text import JsonObject, parse_json
from capgpu.report.dataset_sheets import check_drawable, draw_captioned
from capgpu.report.loss_curve import plot_loss
from capgpu.training.history import read_history

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN
    from capgpu.training.run_folder import RunFolder

__all__ = ["run_html"]

#: Pictures shown: one row of a contact sheet.
_N_PICTURES = 6
_MOST_BYTES = 1 << 26


def run_html(model: CaptioningRNN | None, run: RunFolder | None) -> str:
    """Return a run as HTML, with its pictures inside.

    Parameters
    ----------
    model : CaptioningRNN or None
        The run's model; None where it does not exist yet.
    run : RunFolder or None
        The run. None for a model by itself, of which nothing can be shown but its sizes.

    Returns
    -------
    str
        HTML of one element. A loss curve that cannot be drawn, or pictures of a data set that is no longer there, are
        left out.
    """
    parts = [] if model is None else [f"<p><code>{html.escape(repr(model))}</code></p>"]
    if run is not None:
        parts.insert(0, f"<p><b>{html.escape(str(run.path))}</b>{_summary(run)}</p>")
        drawings = {"loss curve": partial(_draw_losses, run=run)}
        if model is not None:
            drawings["captioned pictures"] = partial(_draw_pictures, model=model, run=run)
        with tempfile.TemporaryDirectory() as folder:
            for name, draw in drawings.items():
                target = Path(folder, "picture.png")
                try:
                    draw(target)
                except (CapgpuError, OSError):
                    continue  # the data set has gone, or holds features only; the record is missing
                data = base64.b64encode(target.read_bytes()).decode()
                parts.append(f'<img alt="{name}" style="max-width: 100%" src="data:image/png;base64,{data}">')
    return f"<div>{''.join(parts)}</div>"


def _summary(run: RunFolder) -> str:
    if not run.summary.is_file():
        return ", unfinished"
    try:
        content = read_content(run.summary, _MOST_BYTES, InvalidValueError)
        summary = JsonObject(parse_json(content, InvalidValueError), str(run.summary), InvalidValueError).value
    except InvalidValueError:
        return ""
    return "".join(
        f", {html.escape(key.replace('_', ' '))} {html.escape(_short(value))}" for key, value in summary.items()
    )


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw_losses(path: Path, run: RunFolder) -> None:
    """Copy the curve of a finished run, which has every step; draw that of another one from its history."""
    if run.plot.is_file():
        path.write_bytes(run.plot.read_bytes())
        return
    history = read_history(run.history)
    ended = [r for r in reversed(history) if r.get("kind") == "epoch" and r["epoch"] and r.get("step")]
    steps_per_epoch = next((r["step"] / r["epoch"] for r in ended), 1)
    steps = [r for r in history if r.get("kind") == "step" and r.get("train_loss") is not None]
    epochs = [r for r in history if r.get("kind") == "epoch" and r.get("val_loss") is not None]
    plot_loss(
        path,
        [(r["step"] / steps_per_epoch, r["train_loss"]) for r in steps],
        [(r["epoch"], r["val_loss"]) for r in epochs],
        title=run.path.name,
        rewards=[(r["step"] / steps_per_epoch, r["reward"]) for r in steps if type(r.get("reward")) is float],
    )


def _draw_pictures(path: Path, model: CaptioningRNN, run: RunFolder) -> None:
    dataset = open_dataset(run.settings()["data"])
    split = next(name for name in ("test", "val", "train") if name in splits_of(dataset.data))
    check_drawable(dataset, split)
    features = dataset.features(split)
    indices = linspace_indices(len(features), _N_PICTURES)
    captions = write_captions(model, features[indices])
    draw_captioned(path, dataset, split, {i: str(caption) for i, caption in zip(indices, captions, strict=True)})
