"""Two plots: the time of a step against T, N and V, and the parts of a capgpu step."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

from bench.measure import Record
from bench.report import Results, write_atomically
from bench.workloads import SIZES, parse_size

SWEEP_BASE = "S1"
SWEEPS = {
    "T": (8, 16, 32, 64),
    "N": (8, 16, 32, 64, 128, 256),
    "V": (500, 1000, 2000, 4000, 8000, 16000),
}
AXES = {"T": "steps T", "N": "captions N", "V": "vocabulary V"}


def sweep_sizes() -> list[str]:
    """Return the sizes of the growth plot, as `parse_size` reads them."""
    return [f"{SWEEP_BASE}:{extent}={value}" for extent, values in SWEEPS.items() for value in values]


def growth_lines(results: Results, extent: str) -> dict[str, tuple[list[int], list[float]]]:
    """Return, by label, the extents and median milliseconds of the sweep over `extent`."""
    lines: dict[str, tuple[list[int], list[float]]] = {}
    for measurement in results.measurements:
        for record in measurement.records:
            point = growth_point(record, extent)
            if point is not None:
                x, y = lines.setdefault(record.label, ([], []))
                x.append(point[0])
                y.append(point[1])
    return lines


def growth_point(record: Record, extent: str) -> tuple[int, float] | None:
    """Return (extent, milliseconds) of a record of that sweep; None for any other record."""
    base, _, change = record.size.partition(":")
    summary = record.summary
    if base != SWEEP_BASE or not change.startswith(extent + "=") or record.job != "loss" or summary is None:
        return None
    return getattr(parse_size(record.size), extent), summary.median


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG."""
    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=130)
    write_atomically(path, data.getvalue())


def style(record_label: str) -> dict[str, Any]:
    """Return the style of a competitor's line: capgpu's thick, limits dashed."""
    if record_label.startswith("capgpu"):
        return {"color": "black", "linewidth": 2.4, "zorder": 3}
    return {"linestyle": "--", "linewidth": 1.2} if record_label.startswith("gemm") else {"linewidth": 1.4}


def plot_growth(results: Results, path: Path) -> None:
    """Draw time against T, N and V, the other extents at S1."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(12, 4.2), layout="constrained")
    panels = figure.subplots(1, len(SWEEPS), sharey=True)
    base = SIZES[SWEEP_BASE]
    for axes, (extent, values) in zip(panels, SWEEPS.items(), strict=True):
        for label, (x, y) in growth_lines(results, extent).items():
            axes.plot(x, y, marker="o", markersize=3, label=label, **style(label))
        axes.set(xscale="log", yscale="log", xlabel=f"{AXES[extent]} ({SWEEP_BASE}: {getattr(base, extent)})")
        axes.set_xticks(values, [str(value) for value in values])
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    panels[0].set_ylabel("ms, loss and gradients (lstm)")
    panels[0].legend(fontsize=8)
    save(figure, path)


def plot_breakdown(results: Results, path: Path) -> None:
    """Draw the parts of our step as shares, one bar for each size, cell and job."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    names = list(results.breakdowns)
    parts = list(dict.fromkeys(part for breakdown in results.breakdowns.values() for part in breakdown))
    figure = Figure(figsize=(11, 1.4 + 0.36 * len(names)), layout="constrained")
    axes = figure.subplots()
    left = [0.0] * len(names)
    for index, part in enumerate(parts):
        shares = [100 * breakdown.get(part, 0.0) / sum(breakdown.values()) for breakdown in results.breakdowns.values()]
        axes.barh(names, shares, left=left, label=part, color=colormaps["tab20"](index))
        left = [end + share for end, share in zip(left, shares, strict=True)]
    for row, breakdown in enumerate(results.breakdowns.values()):
        axes.text(101, row, f"{sum(breakdown.values()):.3g} ms", va="center", fontsize=8)
    axes.set(xlabel="share of the step, %", xlim=(0, 112))
    axes.invert_yaxis()
    figure.legend(loc="outside upper center", ncols=6, fontsize=8)
    save(figure, path)
