"""The loss curve of a training run, as a picture."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Sequence
from itertools import accumulate
from typing import TYPE_CHECKING

from capgpu.errors import InvalidValueError
from capgpu.report.image_file import check_image_name, write_image

if TYPE_CHECKING:
    from matplotlib.axes import Axes

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
    rewards: Points = (),
) -> None:
    """Draw the losses of a training run over its epochs and write them as a picture of 1200 x 750 pixels.

    Parameters
    ----------
    path : path
        The file; replaced whole if it exists. Its suffix determines the format, see
        `capgpu.report.image_file.SUFFIXES`.
    training : sequence of (epoch, loss)
        The loss per word of each minibatch, drawn with its running mean. Losses that are not finite are omitted.
    validation : sequence of (epoch, loss)
        The loss per word of each validation pass; the smallest is marked.
    title : str
        The figure's title.
    training_label : str
        Label of the training losses in the legend.
    rewards : sequence of (epoch, reward)
        The mean reward of each minibatch of self-critical training, drawn above the losses. Its training losses, which
        say nothing, are not drawn.

    Raises
    ------
    ValueError
        For a run without any finite training loss or reward, or an unknown suffix.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from PIL import Image

    check_image_name(path)
    scored, checks = _finite(rewards), _finite(validation)
    steps = [] if scored else _finite(training)
    if not steps and not scored:
        raise InvalidValueError("training: expected a finite loss, got none. Train at least one step.")
    figure = Figure(figsize=(8, 5), dpi=150, layout="constrained")
    FigureCanvasAgg(figure)
    if scored:
        panel = figure.add_subplot(2, 1, 1) if checks else figure.add_subplot()
        _draw_steps(panel, scored, "captions drawn in training")
        _finish(panel, max(epoch for epoch, _ in (*scored, *checks)), "reward")
    if steps or checks:
        axes = figure.add_subplot(2, 1, 2) if scored else figure.add_subplot()
        _draw_losses(axes, steps, checks, training_label)
        _finish(axes, max(epoch for epoch, _ in (*scored, *steps, *checks)), "loss (nats per word)")
    figure.suptitle(title, fontsize=13, fontweight="bold", wrap=True)
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png")
    write_image(path, Image.open(drawn).convert("RGB"), drawing=True)


def _draw_steps(axes: Axes, points: Points, label: str) -> None:
    """Draw a value of each minibatch, and its running mean."""
    epochs = [epoch for epoch, _ in points]
    values = [value for _, value in points]
    form = "o" if len(points) == 1 else "-"
    axes.plot(epochs, values, form, color=_BLUE, alpha=0.25, linewidth=0.8)
    axes.plot(epochs, _running_mean(values), form, color=_BLUE, linewidth=1.8, label=label)


def _draw_losses(axes: Axes, steps: Points, checks: Points, training_label: str) -> None:
    if steps:
        _draw_steps(axes, steps, training_label)
    if checks:
        axes.plot(
            *zip(*checks, strict=True),
            "o-",
            color=_VERMILLION,
            markersize=3.5,
            linewidth=1.8,
            label="validation",
        )
        best_epoch, best = min(checks, key=lambda point: point[1])
        axes.plot(
            [best_epoch],
            [best],
            "o",
            color=_VERMILLION,
            markersize=11,
            fillstyle="none",
            markeredgewidth=1.8,
            label=f"lowest: {best:.3f} at epoch {best_epoch:g}",
        )
    if all(loss > 0 for _, loss in (*steps, *checks)):
        axes.set_yscale("log")


def _finish(axes: Axes, last_epoch: float, label: str) -> None:
    axes.set_xlim(0, last_epoch * 1.02)
    _set_ticks(axes, log=axes.get_yscale() == "log")
    axes.set_xlabel("epoch")
    axes.set_ylabel(label)
    axes.grid(color=_GREY, alpha=0.2)
    axes.spines[["top", "right"]].set_visible(False)
    # above the axes, since any place inside of them may contain data
    axes.legend(loc="lower center", bbox_to_anchor=(0.5, 1), ncols=3, frameon=False)


def _set_ticks(axes: Axes, *, log: bool) -> None:
    """Label both axes at round values, four or more of them on the axis of the losses."""
    from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

    longest = axes.get_xlim()[1]
    axes.xaxis.set_major_locator(MaxNLocator(8, integer=longest >= 3, steps=[1, 2, 5, 10]))
    if not log:
        axes.yaxis.set_major_locator(MaxNLocator(8, steps=[1, 2, 5, 10]))
        return
    low, high = axes.get_ylim()
    axes.yaxis.set_major_locator(FixedLocator(_log_ticks(low, high)))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:.6g}")
    axes.set_ylim(low, high)


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 4 to 10 round values between two limits of a logarithmic axis."""
    from matplotlib.ticker import MaxNLocator

    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    ticks: list[float] = []
    for digits in ((1,), (1, 3), (1, 2, 5), (1, 1.5, 2, 3, 5, 7)):
        ticks = [digit * 10.0**power for power in range(first, last + 1) for digit in digits]
        ticks = [tick for tick in ticks if low <= tick <= high]
        if len(ticks) >= 5:
            return ticks[:: math.ceil(len(ticks) / 10)]
    return [
        float(tick)
        for tick in MaxNLocator(8, steps=[1, 2, 5, 10], min_n_ticks=4).tick_values(low, high)
        if low <= tick <= high
    ]


def _finite(points: Points) -> list[tuple[float, float]]:
    return [(float(x), float(y)) for x, y in points if math.isfinite(y)]


def _running_mean(values: Sequence[float]) -> list[float]:
    """Compute a centered moving average over a window of about a fiftieth of the run."""
    reach = len(values) // 100
    sums = [0.0, *accumulate(values)]
    spans = ((max(i - reach, 0), min(i + reach + 1, len(values))) for i in range(len(values)))
    return [(sums[end] - sums[start]) / (end - start) for start, end in spans]
