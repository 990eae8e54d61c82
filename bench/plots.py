"""Two plots: the time of a step against T, N and V, and the parts of a capgpu step.

    python -m bench.plots [FOLDER]

draws the plots of a folder again from its tables, results.csv and results.md.
"""

from __future__ import annotations

import argparse
import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from bench.measure import Measurement, Record
from bench.process import ROOT
from bench.report import PARTS_TITLE, Results
from bench.workloads import SIZES, describe_size, parse_size, split_job

SWEEP_BASE = "S1"
SWEEPS = {
    "T": (8, 16, 32, 64),
    "N": (8, 16, 32, 64, 128, 256),
    "V": (500, 1000, 2000, 4000, 8000, 16000),
}
#: Title and axis of each panel of the growth plot.
PANELS = {
    "T": ("Longer captions", "time steps"),
    "N": ("Larger batches", "captions per batch"),
    "V": ("Larger vocabularies", "words in the vocabulary"),
}
#: Name, colour (Okabe and Ito's), marker and line of each competitor; products alone are dashed.
LINES = {
    "capgpu cpu": ("capgpu", "#000000", "o", "-"),
    "torch padded": ("PyTorch, padded", "#D55E00", "s", "-"),
    "torch packed": ("PyTorch, packed", "#0072B2", "^", "-"),
    "torch compiled": ("PyTorch, compiled", "#CC79A7", "v", "-"),
    "jax": ("JAX", "#009E73", "D", "-"),
    "gemm distinct torch": ("matrix products alone, PyTorch's BLAS", "#56B4E9", "P", "--"),
    "gemm distinct numpy": ("matrix products alone, NumPy's BLAS", "#E69F00", "X", "--"),
}
#: Name and colour of what parts of a step are drawn as, by the parts.
PARTS = {
    "whole pass": ("whole pass in one call", "#555555"),
    "recurrence forward": ("recurrence, forward", "#0072B2"),
    "recurrence backward": ("recurrence, backward", "#56B4E9"),
    "recurrent weights": ("gradient of recurrent weights", "#A6D8F5"),
    "input projection": ("input projection", "#009E73"),
    "input weights": ("gradient of input weights", "#8FD3BD"),
    "other products": ("other products", "#009E73"),
    "vocabulary and loss": ("vocabulary projection and loss, both directions", "#E69F00"),
    "embedding": ("word vectors", "#F0E442"),
    "embedding gradient": ("word vectors", "#F0E442"),
    "update": ("Adam's update", "#CC79A7"),
    "checks and packing": ("checks and packing", "#D55E00"),
    "checks": ("checks and packing", "#D55E00"),
    "packing": ("checks and packing", "#D55E00"),
}
OTHER = ("everything else", "#CCCCCC")
JOBS = {"loss": "loss, gradients", "adam": "loss, gradients, Adam"}


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


def shown_parts(breakdown: Mapping[str, float]) -> dict[tuple[str, str], float]:
    """Return the percentages of a step by (name, colour), in the order of `PARTS`."""
    shares = dict.fromkeys([*PARTS.values(), OTHER], 0.0)
    for part, milliseconds in breakdown.items():
        shares[PARTS.get(part, OTHER)] += 100 * milliseconds / sum(breakdown.values())
    return shares


def save(figure: Any, path: Path) -> None:
    """Write a figure as PNG, with twice the pixels that it is shown with."""
    from PIL import Image

    from capgpu.report.image_file import write_image

    data = io.BytesIO()
    figure.savefig(data, format="png", dpi=150)
    write_image(path, Image.open(data).convert("RGB"), drawing=True)


def plot_growth(results: Results, path: Path) -> None:
    """Draw time against T, N and V, the other extents at S1."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import FixedLocator, NullLocator

    figure = Figure(figsize=(12, 5.2), layout="constrained")
    panels = figure.subplots(1, len(SWEEPS), sharey=True)
    labels = dict.fromkeys(label for extent in SWEEPS for label in growth_lines(results, extent))
    # the legend begins with capgpu and ends with the limits
    order = sorted(labels, key=lambda label: list(LINES).index(label) if label in LINES else len(LINES))
    for axes, (extent, values) in zip(panels, SWEEPS.items(), strict=True):
        lines = growth_lines(results, extent)
        for label in order:
            name, colour, marker, line = LINES.get(label, (label, "#777777", ".", ":"))
            axes.plot(
                *lines.get(label, ([], [])),
                line,
                label=name,
                color=colour,
                marker=marker,
                markersize=6,
                linewidth=2.6 if label == "capgpu cpu" else 1.6,
                zorder=3 if label == "capgpu cpu" else 2,
            )
        title, axis = PANELS[extent]
        axes.set(xscale="log", yscale="log", xlabel=axis)
        axes.set_title(title, fontsize=12)
        axes.set_xticks(values, [f"{value:,}" for value in values])
        axes.xaxis.set_minor_locator(NullLocator())
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    low, high = panels[0].get_ylim()
    ticks = [digit * 10.0**power for power in range(-4, 6) for digit in (1, 2, 5)]
    panels[0].yaxis.set_major_locator(FixedLocator([tick for tick in ticks if low <= tick <= high]))
    panels[0].yaxis.set_minor_locator(NullLocator())
    panels[0].yaxis.set_major_formatter(lambda value, _: f"{value:g}")
    panels[0].set_ylabel("time per step (ms)")
    figure.suptitle(
        "LSTM: loss and gradients of one minibatch on the CPU\n"
        f"where not varied: {describe_size(SIZES[SWEEP_BASE], every=True)}",
        fontsize=12,
    )
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def plot_breakdown(results: Results, path: Path) -> None:
    """Draw the parts of our step as shares, one bar for each size, cell and job."""
    from matplotlib.figure import Figure

    groups = itertools.groupby(results.breakdowns.items(), key=lambda item: item[0].split()[0])
    bars: dict[float, tuple[str, Mapping[str, float]]] = {}
    headings: dict[float, str] = {}
    y = 0.0
    for size, group in groups:
        headings[y] = f"{size.partition(':')[0]}: {describe_size(parse_size(size))}"
        for name, breakdown in group:
            y += 1
            bars[y] = name, breakdown
        y += 1.4
    figure = Figure(figsize=(11, 1.9 + 0.27 * y), layout="constrained")
    axes = figure.subplots()
    shares = {y: shown_parts(breakdown) for y, (_, breakdown) in bars.items()}
    left = dict.fromkeys(bars, 0.0)
    for part in dict.fromkeys([*PARTS.values(), OTHER]):
        if not any(share[part] for share in shares.values()):
            continue
        name, colour = part
        widths = [share[part] for share in shares.values()]
        drawn = axes.barh(
            list(bars), widths, left=list(left.values()), label=name, color=colour, edgecolor="white", height=0.84
        )
        ink = "white" if colour in ("#0072B2", "#555555") else "black"
        axes.bar_label(
            drawn,
            [f"{width:.0f}" if width >= 4 else "" for width in widths],
            label_type="center",
            color=ink,
            fontsize=9,
        )
        left = {y: start + width for (y, start), width in zip(left.items(), widths, strict=True)}
    for y, (_, breakdown) in bars.items():
        axes.text(101, y, f"{sum(breakdown.values()):.3g} ms", va="center", fontsize=9)
    for y, heading in headings.items():
        axes.text(0, y, heading, va="center", fontsize=10, fontweight="bold")
    axes.set_yticks(list(bars), [bar_name(name) for name, _ in bars.values()])
    axes.set(xlabel="share of the step's time (%)", xlim=(0, 100), ylim=(max(bars) + 0.7, -0.6))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    figure.suptitle("Parts of a training step of capgpu on the CPU", fontsize=12)
    figure.legend(loc="outside lower center", ncols=3, frameon=False)
    save(figure, path)


def bar_name(name: str) -> str:
    """Return the field's terms for the cell and the job of a breakdown: ``"S1 lstm loss"`` -> LSTM: loss, gradients."""
    _, cell, job = name.split()
    plain, dropout = split_job(job)
    return f"{cell.upper()}: {JOBS.get(plain, plain)}{', dropout' if dropout else ''}"


def read_results(folder: Path) -> Results:
    """Read what the plots need from results.csv and results.md.

    Returns
    -------
    Results
        With the median of each record as its only sample, and the breakdowns.
    """
    with (folder / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["median_ms"]]
    records = [
        Record(row["size"], row["cell"], row["job"], row["competitor"], "", slices=[[float(row["median_ms"])]])
        for row in rows
    ]
    page = (folder / "results.md").read_text(encoding="utf-8")
    return Results({}, [Measurement(records, 1, 1)], breakdowns=_breakdowns(page.splitlines()))


def _breakdowns(page: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return the columns of the table of parts; none if the page has no such table."""
    if PARTS_TITLE not in page:
        return {}
    section = itertools.dropwhile(lambda line: not line.startswith("|"), page[page.index(PARTS_TITLE) :])
    table = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in itertools.takewhile(lambda line: line.startswith("|"), section)
    ]
    (_, *names), _, *rows = table
    columns: dict[str, dict[str, float]] = {name: {} for name in names}
    for part, *cells in rows:
        for name, cell in zip(names, cells, strict=True):
            if cell:
                columns[name][part] = float(cell)
    return columns


def main(argv: Sequence[str] | None = None) -> None:
    """Draw the plots of a folder again."""
    parser = argparse.ArgumentParser(prog="python -m bench.plots", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", default=ROOT / "bench" / "results")
    folder = parser.parse_args(argv).folder
    results = read_results(folder)
    if any(growth_lines(results, extent) for extent in SWEEPS):
        plot_growth(results, folder / "growth.png")
    if results.breakdowns:
        plot_breakdown(results, folder / "breakdown.png")


if __name__ == "__main__":
    main()
