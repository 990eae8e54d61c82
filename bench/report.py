"""The results table: CSV for programs, Markdown for people.

Written after every measurement, whole or not at all, so that an interrupted run leaves what it had.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import stats
from bench.bars import MEMORY_BAR, Standing, standing
from bench.fresh import FirstCall
from bench.measure import Measurement, Record
from bench.workloads import DROPOUT, split_job

COLUMNS = (
    "size", "cell", "job", "competitor", "status", "median_ms", "min_ms", "iqr_ms", "samples", "rounds",
    "ours_over_this", "max_error", "first_step_s", "peak_mb", "note",
)  # fmt: skip
SUMMARY = (
    "size", "cell", "job", "ours", "fastest peer", "ratio", "bar", "limit", "ratio", "bar", "quiet rounds", "clears",
)  # fmt: skip
MIB = 2**20


@dataclass
class Results:
    """Everything a run found."""

    machine: dict[str, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    first_calls: list[FirstCall] = field(default_factory=list)
    breakdowns: dict[str, dict[str, float]] = field(default_factory=dict)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that a reader sees the old content or the new, never a part."""
    partial = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with partial.open("wb") as sink:
        sink.write(data)
        sink.flush()
        os.fsync(sink.fileno())
    os.replace(partial, path)


def number(value: float | None, digits: int = 3) -> str:
    """Format to significant digits without an exponent for everyday values; empty for None."""
    if value is None:
        return ""
    if value and not 1e-3 <= abs(value) < 1e6:
        return f"{value:.1e}"
    text = f"{value:.{digits}g}"
    return f"{value:.0f}" if "e" in text else text


def ratio_to(records: list[Record], other: Record) -> float | None:
    """Return ours / other over paired rounds; None if either was not timed."""
    ours = next((record for record in records if record.kind == "ours"), None)
    if ours is None or not ours.slices or not other.slices:
        return None
    return stats.paired_ratio(ours.slices, other.slices)


def csv_rows(results: Results) -> Iterable[list[str]]:
    """Yield the rows of the CSV file, the header first."""
    yield list(COLUMNS)
    for measurement in results.measurements:
        for record in measurement.records:
            yield [
                record.size,
                record.cell,
                record.job,
                record.label,
                record.status,
                *timing_cells(record),
                number(ratio_to(measurement.records, record)),
                number(record.error),
                number(record.first_s),
                number(None if record.peak_bytes is None else record.peak_bytes / MIB),
                record.note,
            ]
    for call in results.first_calls:
        row = dict.fromkeys(COLUMNS, "") | {
            "job": f"first call, {call.cache} cache",
            "competitor": call.label,
        }
        row |= {
            "status": "ok",
            "first_step_s": number(call.first_s),
            "note": f"imports {number(call.import_s)} s",
        }
        yield list(row.values())


def timing_cells(record: Record) -> list[str]:
    """Return median, minimum, interquartile range, samples and rounds; empty where nothing was timed."""
    summary = record.summary
    if summary is None:
        return [""] * 5
    return [
        number(summary.median, 5),
        number(summary.minimum, 5),
        number(summary.iqr),
        str(summary.samples),
        str(len(record.slices)),
    ]


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [
        "| " + " | ".join(header) + " |",
        "|" + " --- |" * len(header),
        *("| " + " | ".join(row) + " |" for row in rows),
        "",
    ]


def verdict(measurement: Measurement, found: Standing) -> str:
    """Return what the summary's last column says."""
    if found.ours.status != "ok":
        return found.ours.status
    return "disturbed" if measurement.disturbed else found.verdict


def summary_row(measurement: Measurement, found: Standing) -> list[str]:
    """Return a row of the summary: ours, the fastest peer, the limit."""
    ours = found.ours.summary
    assert ours is not None
    peer = found.peer.summary if found.peer else None
    limit = found.limit.summary if found.limit else None
    return [
        found.ours.size,
        found.ours.cell,
        found.ours.job,
        number(ours.median),
        f"{found.peer.label} {number(peer.median)}" if found.peer and peer else "",
        number(found.peer_ratio),
        number(found.peer_bar),
        f"{found.limit.label.removeprefix('gemm ')} {number(limit.median)}" if found.limit and limit else "",
        number(found.limit_ratio),
        number(found.limit_bar),
        f"{measurement.quiet_rounds}/{measurement.rounds}",
        verdict(measurement, found),
    ]


def detail_rows(measurement: Measurement) -> Iterable[list[str]]:
    """Yield a row for each competitor of a measurement."""
    for record in measurement.records:
        summary = record.summary
        yield [
            record.label,
            record.status,
            number(summary.median) if summary else "",
            number(summary.minimum) if summary else "",
            f"{100 * summary.noise:.0f} %" if summary else "",
            number(ratio_to(measurement.records, record)),
            number(record.error, 2),
            number(record.first_s, 2),
            number(None if record.peak_bytes is None else record.peak_bytes / MIB),
        ]


def memory_section(results: Results) -> list[str]:
    """Return the table of peak memory, competitors down and sizes across; nothing if none was measured."""
    peaks: dict[str, dict[str, str]] = {}
    for measurement in results.measurements:
        for record in measurement.records:
            if record.peak_bytes is not None:
                column = peaks.setdefault(f"{record.size} {record.cell}", {})
                column[record.label] = number(record.peak_bytes / MIB)
    if not peaks:
        return []
    labels = dict.fromkeys(label for column in peaks.values() for label in column)
    rows = [[label, *(column.get(label, "") for column in peaks.values())] for label in labels]
    verdicts = [
        f"{each.records[0].size} {each.records[0].cell}: {text}"
        for each in results.measurements
        if each.records and (text := memory_verdict(each.records)) is not None
    ]
    title = ["## Peak resident growth of a loss and its gradients, MiB", ""]
    return [
        *title,
        *table(["", *peaks], rows),
        "Ours / PyTorch's smallest:",
        "",
        *(f"- {v}" for v in verdicts),
        "",
    ]


def memory_verdict(records: list[Record]) -> str | None:
    """Return our peak memory over PyTorch's smallest, and the bar; None if either is missing."""
    ours = next((record.peak_bytes for record in records if record.kind == "ours"), None)
    torch = [r.peak_bytes for r in records if r.label.startswith("torch") and r.peak_bytes is not None]
    if ours is None or not torch:
        return None
    ratio = ours / min(torch)
    bar = f" (wanted: at most {MEMORY_BAR})" if records[0].size == "S3" else ""
    return f"{ratio:.2f}{bar}"


def markdown(results: Results) -> str:
    """Return the Markdown page."""
    lines = ["# Results", "", "Written by `python -m bench.run`; the same figures are in results.csv.", ""]
    lines += table(
        ["", ""],
        [[name, f"`{value}`" if name == "command" else value] for name, value in results.machine.items()],
    )
    found = [(measurement, standing(measurement.records)) for measurement in results.measurements]
    measured = [(each, one) for each, one in found if one is not None]
    defaults = [(each, one) for each, one in measured if split_job(one.ours.job)[1]]
    others = [(each, one) for each, one in measured if not split_job(one.ours.job)[1]]
    if defaults:
        lines += [
            "## What `capgpu train` does by default",
            "",
            f"Loss, gradients and Adam with a dropout of {DROPOUT} on the features and before the vocabulary, in every "
            "competitor with new masks at each step. Milliseconds; ratios are medians over rounds of ours / the other. "
            "Results are compared with the oracle's without dropout: masks are each library's own.",
            "",
            *table(SUMMARY, [summary_row(each, one) for each, one in defaults]),
        ]
    lines += ["## Ours, the fastest peer, the limit", ""]
    lines += [
        "Milliseconds; ratios are medians over rounds of ours / the other. The limit is the time of the "
        "matrix products alone, input products on distinct words, in the faster of two BLAS libraries "
        "(sampling: all products).",
        "",
    ]
    lines += table(SUMMARY, [summary_row(each, one) for each, one in others])
    if results.breakdowns:
        lines += ["## Parts of a step, ms", "", "![](breakdown.png)", ""]
        parts = list(dict.fromkeys(part for each in results.breakdowns.values() for part in each))
        rows = [[part, *(number(each.get(part)) for each in results.breakdowns.values())] for part in parts]
        lines += table(["part", *results.breakdowns], rows)
    lines += memory_section(results)
    if results.first_calls:
        lines += [
            "## First call, s",
            "",
            "Imports, then the first loss and gradients, in a fresh process.",
            "",
        ]
        rows = [[c.label, c.cache, number(c.import_s, 2), number(c.first_s, 2)] for c in results.first_calls]
        lines += table(["", "compile caches", "imports", "first step"], rows)
    if any(":" in record.size for each in results.measurements for record in each.records):
        lines += ["## How cost grows", "", "![](growth.png)", ""]
    lines += ["## All figures", ""]
    for measurement in results.measurements:
        if measurement.records:
            lines += detail_section(measurement)
    return "\n".join(lines)


def detail_section(measurement: Measurement) -> list[str]:
    """Return the lines about one size, cell and job."""
    first = measurement.records[0]
    lines = [
        f"### {first.size} {first.cell} {first.job}",
        "",
        f"{measurement.rounds} rounds, {measurement.quiet_rounds} of them with other processes at rest.",
        "",
    ]
    header = [
        "",
        "status",
        "median ms",
        "min ms",
        "noise (IQR)",
        "ours / this",
        "error",
        "first step s",
        "peak MiB",
    ]
    lines += table(header, detail_rows(measurement))
    return lines


def write(results: Results, folder: Path) -> None:
    """Write results.csv and results.md into `folder`."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(csv_rows(results))
    write_atomically(folder / "results.csv", text.getvalue().encode())
    write_atomically(folder / "results.md", markdown(results).encode())
