"""The table of a run on a device: timings beside the floor computed from the device's peaks."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from bench.cuda import ours
from bench.cuda.devices import Device
from bench.cuda.parts import Part, extents
from bench.workloads import make_workload, parse_size

__all__ = ["ABSENT", "EMULATED", "Launch", "Run", "Timing", "csv_text", "markdown"]

#: Label of all output if the stand-in for CuPy was used instead of a GPU.
EMULATED = "EMULATED on a CPU: these figures measure nothing"
#: Prefix of the note on a competitor whose library or device is missing.
ABSENT = "absent: "


@dataclass(frozen=True)
class Timing:
    """One competitor at one job.

    Attributes
    ----------
    size, cell, job, competitor, precision : str
        Identification of the measurement.
    ms, filled_ms, wall_ms : float or None
        Median milliseconds of a step: launched back to back, behind other work, by the host's clock; None on failure.
    queued : bool
        Whether the steps behind other work were launched completely before the device reached them; otherwise
        `filled_ms` includes host time.
    spread : float
        Interquartile range of the rounds' medians, as a share of the median.
    error : float or None
        Largest relative difference from the float64 oracle over all results, or share of differing words.
    note : str
        Reason for missing figures.
    """

    size: str
    cell: str
    job: str
    competitor: str
    precision: str = "float32"
    ms: float | None = None
    filled_ms: float | None = None
    wall_ms: float | None = None
    queued: bool = True
    spread: float = 0.0
    error: float | None = None
    note: str = ""


@dataclass(frozen=True)
class Launch:
    """One launch of capgpu's step, and its milliseconds within the step."""

    size: str
    cell: str
    name: str
    ms: float


@dataclass
class Run:
    """The results of a run.

    Attributes
    ----------
    device : dict
        Device, versions, command, whether it was emulated.
    peaks : Device or None
        Peaks computed from the device's attributes.
    timings, launches
        Measurements.
    skipped : list of str
        Measurements that were skipped for lack of time.
    """

    device: dict[str, Any]
    peaks: Device | None
    timings: list[Timing] = field(default_factory=list)
    launches: list[Launch] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @property
    def emulated(self) -> bool:
        """Whether the stand-in for CuPy was used instead of a device."""
        return bool(self.device["emulated"])


def _parts(size: str, cell: str, job: str, names: list[str] | None = None) -> list[Part]:
    """Return the step's computed parts, for the algorithm that was launched if its kernels are known."""
    stepwise = any(name.endswith("_step") for name in names or ())
    work = make_workload(parse_size(size), cell)
    return ours.step(extents(work), persistent=not stepwise, update=job == "adam")


def floor_ms(run: Run, timing: Timing) -> float | None:
    """Return the floor of a step without cache hits; None if the job, precision or device has none."""
    if run.peaks is None or timing.job not in ("loss", "adam") or timing.precision != "float32":
        return None
    peaks = run.peaks
    return sum(part.cold_us(peaks) for part in _parts(timing.size, timing.cell, timing.job)) / 1e3


def launch_rows(run: Run) -> Iterator[dict[str, Any]]:
    """Yield each launch beside its computed part; successive launches of a per-step kernel are one row."""
    for size, cell in dict.fromkeys((launch.size, launch.cell) for launch in run.launches):
        step_launches = [launch for launch in run.launches if (launch.size, launch.cell) == (size, cell)]
        parts = _parts(size, cell, "adam", [launch.name for launch in step_launches])
        expected = [part.kernel for part in parts for _ in range(part.launches)]
        known_order = _operations(expected) == _operations([launch.name for launch in step_launches])
        position = 0
        for part in parts if known_order else [None] * len(step_launches):
            count = part.launches if part is not None else 1
            group = step_launches[position : position + count]
            position += count
            ms = sum(launch.ms for launch in group)
            row = {"size": size, "cell": cell, "launch": group[0].name, "count": count, "us": 1e3 * ms}
            if part is not None:
                row |= {"part": part.name, "gb_s": part.bytes / ms / 1e6, "gflop_s": part.flops / ms / 1e6}
                if run.peaks is not None:
                    row["share"] = part.cold_us(run.peaks) / 1e3 / ms
            yield row


def _operations(names: list[str]) -> list[str]:
    """Map launch names to the parts' names: one name for all softmax kernels and for all precisions of a recurrence."""
    base_names = [name.removesuffix("_tensor").removesuffix("_split") for name in names]
    return ["softmax" if name.startswith("softmax") else name for name in base_names]


def csv_text(run: Run) -> str:
    """Return all steps as CSV; the first column says whether they were measured."""
    out = io.StringIO()
    names = [name for name in Timing.__dataclass_fields__ if name != "note"]
    writer = csv.DictWriter(out, ["basis", "device", *names, "floor_ms", "note"], lineterminator="\n")
    writer.writeheader()
    for timing in run.timings:
        row = {name: getattr(timing, name) for name in Timing.__dataclass_fields__}
        basis = EMULATED if run.emulated else "measured"
        writer.writerow({"basis": basis, "device": run.device["device"], "floor_ms": floor_ms(run, timing), **row})
    return out.getvalue()


def _number(value: float | None, digits: int = 3) -> str:
    return "" if value is None else np.format_float_positional(value, digits, unique=False, fractional=False, trim="-")


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.0f} %"


def _by_precision(timings: list[Timing]) -> list[str]:
    """Return a table with a column for each precision: milliseconds of a step, steps launched back to back."""
    precisions = list(dict.fromkeys(timing.precision for timing in timings))
    rows: dict[tuple[str, str, str, str], dict[str, str]] = {}
    for timing in timings:
        row = rows.setdefault((timing.size, timing.cell, timing.job, timing.competitor), {})
        row[timing.precision] = _number(timing.ms) or "-"
    return [
        "",
        "Milliseconds of a step; `-` where a precision is not served, or failed (the notes below say why).",
        "",
        f"| size | cell | job | | {' | '.join(precisions)} |",
        "| --- | --- | --- | --- |" + " ---: |" * len(precisions),
        *(
            f"| {' | '.join(labels)} | {' | '.join(row.get(precision, '') for precision in precisions)} |"
            for labels, row in rows.items()
        ),
    ]


def markdown(run: Run) -> str:
    """Return the page."""
    title = EMULATED if run.emulated else f"Timings on {run.device['device']}"
    lines = [f"# {title}", ""]
    if run.emulated:
        lines += ["The commands were run on a stand-in for CuPy that executes kernels on the CPU, to test them.", ""]
    lines += [f"- {name}: {value}" for name, value in run.device.items() if name != "peaks"]
    if run.peaks is not None:
        lines.append(
            f"- peaks by the device's own words: {run.peaks.tflops:.1f} TFLOP/s, {run.peaks.gigabytes:.0f} GB/s"
        )
    absent = {timing.competitor: timing.note for timing in run.timings if timing.note.startswith(ABSENT)}
    shown = [timing for timing in run.timings if timing.competitor not in absent]
    lines += _by_precision(shown)
    lines += [
        "",
        "## All figures",
        "",
        "`step`: median milliseconds of a step, steps launched back to back, between events on the device. `device`:",
        "the same behind other work, so that the device never waits for the host; where it did all the same, because a",
        "step waits or the host is slow, the figure has an asterisk. `host`: by the host's clock. `spread`:",
        "interquartile range of the rounds. `share`: our step's floor on this device (bench/cuda/ours.py, nothing kept",
        "in cache) over `step`. `error`: from the float64 oracle; none with dropout, whose masks differ.",
        "",
        "| size | cell | job | | precision | step | device | host | spread | share | error | |",
        "| --- | --- | --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    for timing in shown:
        floor = floor_ms(run, timing)
        share = None if floor is None or timing.ms is None else floor / timing.ms
        filled = f"{_number(timing.filled_ms)}{'' if timing.queued else ' *'}"
        figures = f"{_number(timing.ms)} | {filled} | {_number(timing.wall_ms)}"
        spread = _percent(timing.spread) if timing.ms is not None else ""
        error = "" if timing.error is None else f"{timing.error:.1e}"
        lines.append(
            f"| {timing.size} | {timing.cell} | {timing.job} | {timing.competitor} | {timing.precision} | "
            f"{figures} | "
            f"{spread} | {_percent(share)} | {error} | {timing.note} |"
        )
    lines += ["", *(f"- {name} is {note}" for name, note in absent.items())]
    lines += [f"- no time was left for {what}" for what in run.skipped]
    if run.launches:
        lines += [
            "",
            "## Our step, launch by launch",
            "",
            "Between an event before the launch and the one before the next, behind other work: an event costs about a",
            "microsecond, which is in every figure. GB/s and GFLOP/s: what the launch must move and compute over that",
            "time. Launches that come in another order than on paper are shown without.",
            "",
            "| size | cell | launch | times | us | what it does | GB/s | GFLOP/s | share of floor |",
            "| --- | --- | --- | ---: | ---: | --- | ---: | ---: | ---: |",
        ]
        for row in launch_rows(run):
            lines.append(
                f"| {row['size']} | {row['cell']} | {row['launch']} | {row['count']} | {row['us']:.1f} | "
                f"{row.get('part', '')} | {_number(row.get('gb_s'))} | {_number(row.get('gflop_s'))} | "
                f"{_percent(row.get('share'))} |"
            )
    return "\n".join(lines) + "\n"
