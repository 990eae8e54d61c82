"""The loss curve of a training run, as a PNG."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from itertools import accumulate

from capgpu.checkpoint import atomic_write
from capgpu.errors import InvalidValueError
from capgpu.report.png import check_png_name

__all__ = ["plot_loss"]

Points = Sequence[tuple[float, float]]

# two colours of Okabe and Ito's palette, which differ for every kind of colour vision
_BLUE, _VERMILLION, _GREY = "#0072B2", "#D55E00", "#555555"


def plot_loss(
    path: str | os.PathLike[str],
    training: Points,
    validation: Points = (),
    *,
    title: str,
    training_label: str = "training",
) -> None:
    """Draw the losses of a training run over its epochs and write them as a PNG of 1200 x 750 pixels.

    Parameters
    ----------
    path : path
        The file; replaced whole if it exists.
    training : sequence of (epoch, loss)
        The loss per word of each minibatch, drawn with its running mean. Losses that are not finite are omitted.
    validation : sequence of (epoch, loss)
        The loss per word of each validation pass; the smallest is marked.
    title : str
        The figure's title.
    training_label : str
        Label of the training losses in the legend.

    Raises
    ------
    ValueError
        For a run without any finite training loss, or a name with another suffix than ``.png``.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    check_png_name(path)
    steps, checks = _finite(training), _finite(validation)
    if not steps:
        raise InvalidValueError("training holds no finite loss; there is nothing to draw. Train at least one step.")
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    epochs = [epoch for epoch, _ in steps]
    losses = [loss for _, loss in steps]
    single = len(steps) == 1
    axes.plot(epochs, losses, "o" if single else "-", color=_BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(
        epochs,
        _running_mean(losses),
        "o" if single else "-",
        color=_BLUE,
        linewidth=1.8,
        label=training_label,
    )
    if checks:
        axes.plot(
            *zip(*checks, strict=True),
            "o-",
            color=_VERMILLION,
            markersize=3,
            linewidth=1.8,
            label="validation",
        )
        best_epoch, best = min(checks, key=lambda point: point[1])
        axes.plot([best_epoch], [best], "o", color=_VERMILLION, markersize=9, fillstyle="none", markeredgewidth=1.5)
        text = f"best: {best:.3f}, epoch {best_epoch:g}"
        # the label keeps to the inner side of its point
        side = -1 if best_epoch > 0.6 * epochs[-1] else 1
        axes.annotate(
            text,
            (best_epoch, best),
            (12 * side, 16),
            textcoords="offset points",
            ha="right" if side < 0 else "left",
            color=_VERMILLION,
            bbox={"boxstyle": "round,pad=0.2", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
        )
    if min(losses) > 0 and all(loss > 0 for _, loss in checks):
        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.yaxis.set_minor_formatter(lambda value, _: f"{value:g}" if _leading_digit(value) in (2, 5) else "")
    axes.set_title(title)
    axes.set_xlabel("epoch")
    axes.set_ylabel("loss, nats a word")
    axes.set_xlim(left=0)
    axes.grid(which="both", color=_GREY, alpha=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    with atomic_write(path) as file:
        figure.savefig(file, format="png")


def _leading_digit(value: float) -> int:
    return round(value / 10 ** math.floor(math.log10(value))) if value > 0 else 0


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points if math.isfinite(y)]


def _running_mean(values: Sequence[float]) -> list[float]:
    """Compute a centered moving average over a window of about a fiftieth of the run."""
    reach = len(values) // 100
    sums = [0.0, *accumulate(values)]
    spans = ((max(i - reach, 0), min(i + reach + 1, len(values))) for i in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]
