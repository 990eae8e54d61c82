"""The results as CSV and Markdown, written atomically after every measurement, so an interrupted run keeps them."""

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
from bench.workloads import DROPOUT, SIZES, describe_size, parse_size, split_job

COLUMNS = (
    "size", "cell", "job", "competitor", "status", "median_ms", "min_ms", "iqr_ms", "samples", "rounds",
    "ours_over_this", "max_error", "first_step_s", "peak_mb", "note",
)  # fmt: skip
SUMMARY = (
    "size", "cell", "job", "ours", "fastest peer", "ratio", "bar", "limit", "ratio", "bar", "quiet rounds", "clears",
)  # fmt: skip
MIB = 2**20
PARTS_TITLE = "## Parts of a step, ms"


@dataclass
class Results:
    """The results of a run."""

    machine: dict[str, str] = field(default_factory=dict)
    measurements: list[Measurement] = field(default_factory=list)
    first_calls: list[FirstCall] = field(default_factory=list)
    breakdowns: dict[str, dict[str, float]] = field(default_factory=dict)


def write_atomically(path: Path, data: bytes) -> None:
    """Replace a file atomically: readers see either the old or the new content."""
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def number(value: float | None, digits: int = 3) -> str:
    """Format to significant digits, with an exponent only for very small or large values; empty for None."""
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


def clears(measurement: Measurement, result: Standing) -> str:
    """Return the summary's last column."""
    if result.ours.status != "ok":
        return result.ours.status
    return "disturbed" if measurement.disturbed else result.clears


def summary_row(measurement: Measurement, result: Standing) -> list[str]:
    """Return a row of the summary: capgpu, the fastest peer, the limit."""
    ours = result.ours.summary
    assert ours is not None
    peer = result.peer.summary if result.peer else None
    limit = result.limit.summary if result.limit else None
    return [
        result.ours.size,
        result.ours.cell,
        result.ours.job,
        number(ours.median),
        f"{result.peer.label} {number(peer.median)}" if result.peer and peer else "",
        number(result.peer_ratio),
        number(result.peer_bar),
        f"{result.limit.label.removeprefix('gemm ')} {number(limit.median)}" if result.limit and limit else "",
        number(result.limit_ratio),
        number(result.limit_bar),
        f"{measurement.quiet_rounds}/{measurement.rounds}",
        clears(measurement, result),
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
    """Return the table of peak memory, a row per competitor and a column per size; empty if none was measured."""
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
    comparisons = [
        f"{measurement.records[0].size} {measurement.records[0].cell}: {text}"
        for measurement in results.measurements
        if measurement.records and (text := memory_comparison(measurement.records)) is not None
    ]
    title = ["## Peak resident growth of a loss and its gradients, MiB", ""]
    return [
        *title,
        *table(["", *peaks], rows),
        "Ours / PyTorch's smallest:",
        "",
        *(f"- {text}" for text in comparisons),
        "",
    ]


def memory_comparison(records: list[Record]) -> str | None:
    """Return the ratio of capgpu's peak memory to PyTorch's smallest, with its bar; None if either is missing."""
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
    lines += ["Sizes; `S1:T=8` is S1 with one extent changed.", ""]
    lines += table(["size", "extents"], [[name, describe_size(size, every=True)] for name, size in SIZES.items()])
    standings = [(measurement, standing(measurement.records)) for measurement in results.measurements]
    timed = [(breakdown, result) for breakdown, result in standings if result is not None]
    with_dropout = [(breakdown, result) for breakdown, result in timed if split_job(result.ours.job)[1]]
    without_dropout = [(breakdown, result) for breakdown, result in timed if not split_job(result.ours.job)[1]]
    if with_dropout:
        lines += [
            "## What `capgpu train` does by default",
            "",
            f"Loss, gradients and Adam with a dropout of {DROPOUT} on the features and before the vocabulary, in every "
            "competitor with new masks at each step. Milliseconds; ratios are medians over rounds of ours / the other. "
            "Results are compared with the oracle's without dropout: masks are each library's own.",
            "",
            *table(SUMMARY, [summary_row(breakdown, result) for breakdown, result in with_dropout]),
        ]
    lines += ["## Ours, the fastest peer, the limit", ""]
    lines += [
        "Milliseconds; ratios are medians over rounds of ours / the other. The limit is the time of the "
        "matrix products alone, input products on distinct words, in the faster of two BLAS libraries "
        "(sampling: all products).",
        "",
    ]
    lines += table(SUMMARY, [summary_row(breakdown, result) for breakdown, result in without_dropout])
    if results.breakdowns:
        lines += [PARTS_TITLE, "", "![](breakdown.png)", ""]
        parts = list(dict.fromkeys(part for breakdown in results.breakdowns.values() for part in breakdown))
        rows = [[part, *(number(breakdown.get(part)) for breakdown in results.breakdowns.values())] for part in parts]
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
    if any(":" in record.size for breakdown in results.measurements for record in breakdown.records):
        lines += ["## How cost grows", "", "![](growth.png)", ""]
    lines += ["## All figures", ""]
    for measurement in results.measurements:
        if measurement.records:
            lines += detail_section(measurement)
    return "\n".join(lines)


def detail_section(measurement: Measurement) -> list[str]:
    """Return the section on one size, cell and job."""
    first = measurement.records[0]
    lines = [
        f"### {first.size} {first.cell} {first.job}",
        "",
        f"{describe_size(parse_size(first.size), every=True).capitalize()}.",
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
