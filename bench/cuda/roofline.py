"""Lower bounds of a training step's time on four GPUs, computed from operation counts; nothing is measured.

    python -m bench.cuda.roofline

A part's floor is the maximum of its arithmetic time at the device's peak and its memory time at the device's
bandwidth, plus an assumed cost for each launch and each grid-wide barrier. ``cold``: nothing stays on the chip between
launches. ``warm``: everything is in the L2 cache and reading it is free; no step can be faster.
"""

from __future__ import annotations

import argparse
import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.cuda import cudnn, ours
from bench.cuda.devices import BARRIER_US, DEVICES, LAUNCH_US, Device
from bench.cuda.parts import Extents, Part, extents, total
from bench.plots import save
from bench.process import ROOT
from bench.report import write_atomically
from bench.workloads import SIZES, describe_size, make_workload

__all__ = ["CELLS", "PATHS", "main", "paths"]

RESULTS = ROOT / "bench" / "cuda" / "results"
SIZES_ON_PAPER = ("S1", "S2", "S3")
CELLS = ("lstm", "gru", "rnn")
#: Implementations of a step, in the order of the tables.
PATHS = ("capgpu", "PyTorch padded", "PyTorch packed")
MARK = "computed, not measured"


def fits(e: Extents, device: Device) -> bool:
    """Return whether ``Wh`` fits into the device's shared memory, as the persistent recurrences require."""
    return device.multiprocessors * device.shared_kb * 2**10 >= 4 * e.H * e.G


def paths(e: Extents, device: Device) -> dict[str, list[Part]]:
    """Return the parts of a step for each implementation."""
    return {
        "capgpu": ours.step(e, persistent=fits(e, device)),
        **{f"PyTorch {mode}": cudnn.step(e, mode) for mode in cudnn.MODES},
    }


def _cases() -> Iterator[tuple[str, str, Extents]]:
    for size in SIZES_ON_PAPER:
        for cell in CELLS:
            yield size, cell, extents(make_workload(SIZES[size], cell))


def rows() -> Iterator[dict[str, Any]]:
    """Yield every part of every implementation on every device."""
    for size, cell, e in _cases():
        for device in DEVICES:
            for path, parts in paths(e, device).items():
                for part in parts:
                    yield {
                        "basis": MARK,
                        "size": size,
                        "cell": cell,
                        "device": device.name,
                        "path": path,
                        "part": part.name,
                        "mflop": round(part.flops / 1e6, 3),
                        "kbytes": round(part.bytes / 1e3, 1),
                        "launches": part.launches,
                        "barriers": part.barriers,
                        "cold_us": round(part.cold_us(device), 2),
                        "warm_us": round(part.warm_us(device), 2),
                    }


def csv_text() -> str:
    """Return all rows as CSV."""
    all_rows = list(rows())
    out = io.StringIO()
    writer = csv.DictWriter(out, list(all_rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(all_rows)
    return out.getvalue()


def _step_table(e: Extents) -> list[str]:
    lines = [
        "| way | GFLOP | MB | launches | barriers | " + " | ".join(device.name for device in DEVICES) + " |",
        "| --- | ---: | ---: | ---: | ---: |" + " ---: |" * len(DEVICES),
    ]
    for path in PATHS:
        totals: dict[tuple[int, int], Part] = {}
        floors = []
        for device in DEVICES:
            parts = paths(e, device)[path]
            total_part = total(parts)
            totals.setdefault((total_part.launches, total_part.barriers), total_part)
            cold, warm = sum(p.cold_us(device) for p in parts), sum(p.warm_us(device) for p in parts)
            floors.append(f"{warm:,.0f} to {cold:,.0f}")
        any_total = next(iter(totals.values()))
        launches = " or ".join(str(total_part.launches) for total_part in totals.values())
        barriers = " or ".join(str(total_part.barriers) for total_part in totals.values())
        numbers = f"{any_total.flops / 1e9:.2f} | {any_total.bytes / 1e6:.1f} | {launches} | {barriers}"
        lines.append(f"| {path} | {numbers} | {' | '.join(floors)} |")
    return lines


def _part_table(e: Extents, path: str) -> list[str]:
    lines = [
        "| part | MFLOP | KB | launches | barriers | " + " | ".join(device.name for device in DEVICES) + " |",
        "| --- | ---: | ---: | ---: | ---: |" + " ---: |" * len(DEVICES),
    ]
    by_device = [paths(e, device)[path] for device in DEVICES]
    for part_by_device in zip(*by_device, strict=True):
        part = part_by_device[0]
        floors = (f"{p.cold_us(device):,.1f}" for p, device in zip(part_by_device, DEVICES, strict=True))
        launches = " or ".join(dict.fromkeys(str(p.launches) for p in part_by_device))
        barriers = " or ".join(dict.fromkeys(str(p.barriers) for p in part_by_device))
        lines.append(
            f"| {part.name} | {part.flops / 1e6:,.1f} | {part.bytes / 1e3:,.0f} | {launches} | {barriers} | "
            f"{' | '.join(floors)} |"
        )
    return lines


def markdown() -> str:
    """Return the page."""
    lines = [
        "# Floors of a training step on four GPUs: computed, not measured",
        "",
        "`python -m bench.cuda.roofline` counts operations, bytes, launches and barriers, and divides by the makers'",
        "peaks (`bench/cuda/devices.py` names the sources). Nothing here was timed. What a part costs is the longer of",
        f"arithmetic and memory, plus {LAUNCH_US:g} us a launch and {BARRIER_US:g} us a barrier over the grid, both of",
        "them assumptions. `bench/cuda/cudnn.py` says what is assumed of PyTorch and cuDNN.",
        "",
        "Float32 without tensor cores; microseconds; loss, gradients and Adam. The floors of a step are two: the first",
        "with everything in the second-level cache and reading it free, the second with every launch reading device",
        "memory. Real kernels reach a part of the peak; the host needs its own time to launch, which is left out. On",
        "a T4 the LSTM's `Wh` (4 MB) does not fit the shared memory of all multiprocessors (2.5 MB): one launch a step",
        "takes the place of one barrier a step. Where it fits and a launch a step is estimated to take less time",
        "(`kernels/cuda/cost.py`), the floors are those of one launch for all steps, which are lower.",
        "",
        "![The floors of a step](roofline.png)",
        "",
        "## Steps",
    ]
    cases = list(_cases())
    for size, cell, e in cases:
        lines += ["", f"### {size}, {cell}", ""]
        lines += [f"N {e.N}, D {e.D}, W {e.W}, H {e.H}, V {e.V}, T {e.T}; {e.M} words, {e.U} distinct.", ""]
        lines += _step_table(e)
    lines += ["", "## Parts of our step (floors with every launch reading device memory)"]
    for size, cell, e in cases:
        lines += ["", f"### {size}, {cell}: capgpu", "", *_part_table(e, "capgpu")]
    lines += ["", "## Parts of PyTorch's step (likewise)"]
    for size, cell, e in cases:
        for path in PATHS[1:]:
            lines += ["", f"### {size}, {cell}: {path}", "", *_part_table(e, path)]
    return "\n".join(lines) + "\n"


def plot(path: Path) -> None:
    """Draw the floors: arithmetic, memory beyond it, launches and barriers."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(figsize=(12, 10.4), layout="constrained")
    grid = figure.subplots(len(CELLS), len(SIZES_ON_PAPER))
    kinds = ("arithmetic", "memory beyond it", "launches", "barriers")
    colours = ("#4477aa", "#88ccee", "#ddaa33", "#bb5566")
    shades = {"capgpu": 1.0, "PyTorch padded": 0.75, "PyTorch packed": 0.75}
    for size, cell, e in _cases():
        axes = grid[CELLS.index(cell)][SIZES_ON_PAPER.index(size)]
        ticks, labels, y, longest = [], [], 0.0, 0.0
        for device in DEVICES:
            for path_name in PATHS:
                parts = paths(e, device)[path_name]
                heights = (
                    sum(device.arithmetic_us(p.flops) for p in parts),
                    sum(p.cold_us(device) - p.warm_us(device) for p in parts),
                    sum(p.launches for p in parts) * LAUNCH_US,
                    sum(p.barriers for p in parts) * BARRIER_US,
                )
                left = 0.0
                for kind, height, colour in zip(kinds, heights, colours, strict=True):
                    first = (size, cell, device, path_name) == ("S1", "lstm", DEVICES[0], "capgpu")
                    axes.barh(
                        y,
                        height,
                        left=left,
                        color=colour,
                        alpha=shades[path_name],
                        label=kind if first else None,
                    )
                    left += height
                longest = max(longest, left)
                axes.text(left, y, f" {left:,.0f}", va="center", fontsize=7)
                ticks.append(y)
                labels.append(f"{device.name}: {path_name}" if path_name == PATHS[0] else path_name)
                y += 1
            y += 0.6
        axes.set_yticks(ticks, labels, fontsize=7)
        axes.invert_yaxis()
        axes.set_title(f"{cell.upper()}: {describe_size(SIZES[size])}", fontsize=9, loc="right")
        axes.set_xlim(0, 1.25 * longest)
        axes.xaxis.set_major_locator(MaxNLocator(5))
        axes.xaxis.set_major_formatter("{x:,.0f}")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_xlabel("time per step (µs)", fontsize=8)
        axes.tick_params(axis="x", labelsize=7)
    figure.suptitle(
        "Floors of a training step, nothing kept in cache: computed from counts and makers' peaks, NOT measured"
    )
    figure.legend(loc="outside lower center", ncols=len(kinds), fontsize=9)
    save(figure, path)


def main(argv: Sequence[str] | None = None) -> None:
    """Write the tables and the plot."""
    parser = argparse.ArgumentParser(prog="python -m bench.cuda.roofline", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=RESULTS)
    out: Path = parser.parse_args(argv).out
    out.mkdir(parents=True, exist_ok=True)
    write_atomically(out / "roofline.md", markdown().encode())
    write_atomically(out / "roofline.csv", csv_text().encode())
    plot(out / "roofline.png")
    print(f"{out / 'roofline.md'}: {MARK}")


if __name__ == "__main__":
    main()
