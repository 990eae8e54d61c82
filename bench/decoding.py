"""Times of the decoders relative to greedy decoding and to PyTorch: ``python -m bench.decoding``.

100 captions of 30 words, at a size of `bench.workloads`. Random models hardly ever produce END, so no decoder stops
early: this is the maximal cost of a caption. Every decoder and every competitor runs in its own process, stopped while
others are timed; slices alternate, and ratios are those of adjacent slices.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import tempfile
from pathlib import Path

from bench import stats
from bench.competitors import Competitor
from bench.machine import describe
from bench.measure import Plan, Record, checked_result, take_rounds
from bench.process import ROOT, WorkerProcess
from bench.report import table, write_atomically
from bench.workloads import CELLS

OURS = ("greedy", "words", "beam5", "drawn", "nucleus")
PEERS = ("eager", "compiled")
LABELS = {
    "greedy": "greedy",
    "words": "greedy, words alone (model.sample)",
    "beam5": "beam of 5",
    "drawn": "drawn, temperature 1",
    "nucleus": "drawn from the nucleus of 0.9",
}
#: Largest allowed ratio of the time of a beam of 5 to greedy decoding.
BAR = 5.0
#: Norm-wise relative tolerance of captions' log-probabilities against PyTorch's. The words of some captions may differ:
#: random models have many captions of nearly equal probability, and rounding decides which of them a beam keeps.
TOLERANCE = 1e-4


def measure(
    size: str, cell: str, plan: Plan, peer_python: str, scratch: Path, versions: dict[str, str]
) -> list[Record]:
    """Time all decoders of capgpu and PyTorch at a size and cell; adds the libraries' versions to `versions`."""
    ours = [(Competitor(f"capgpu {decoder}", "decoding_ours", "cpu", "ours"), decoder) for decoder in OURS]
    peers = [
        (Competitor(f"torch {mode} {decoder}", "decoding_torch", mode, "peer"), decoder)
        for decoder in ("greedy", "beam5")
        for mode in PEERS
    ]
    records: dict[str, Record] = {}
    processes: list[WorkerProcess] = []
    scores = {}
    try:
        for competitor, decoder in ours + peers:
            python = sys.executable if competitor.kind == "ours" else peer_python
            process = WorkerProcess(competitor, python, None, scratch / f"{competitor.label.replace(' ', '-')}.log")
            processes.append(process)
            record = records[competitor.label] = Record(size, cell, decoder, competitor.label, competitor.kind)
            greeting = process.ask(do="hello")
            if "absent" in greeting:
                record.status, record.note = "absent", greeting["absent"]
                processes.remove(process)
                process.close()
                continue
            versions |= greeting["versions"]
            record.first_s = process.ask(do="prepare", size=size, cell=cell, job=decoder)["first_s"]
            result = checked_result(process, scratch)
            process.rest()
            if competitor.kind == "ours":
                scores[decoder] = result
            else:
                record.error = stats.worst_error(result, scores[decoder])
                if record.error > TOLERANCE:
                    raise SystemExit(f"{competitor.label} finds captions of other scores ({record.error:.1e})")
        n_quiet = take_rounds(processes, records, plan)
    finally:
        for process in processes:
            process.close()
    print(f"{size} {cell}: {n_quiet} of {plan.rounds} rounds undisturbed", flush=True)
    for record in records.values():
        record.note = record.note or f"{n_quiet} of {plan.rounds}"
    return list(records.values())


def rows_of(records: list[Record]) -> list[list[str]]:
    """Return a table row per decoder: capgpu's time, relative to its greedy decoding and to the faster PyTorch mode."""
    timed = {record.label: record for record in records if record.slices}
    rows = []
    for decoder in OURS:
        ours = timed[f"capgpu {decoder}"]
        summary = stats.summarise(ours.slices)
        over_greedy = stats.paired_ratio(ours.slices, timed["capgpu greedy"].slices)
        peers = [timed[label] for mode in PEERS if (label := f"torch {mode} {decoder}") in timed]
        peer = min(peers, key=lambda record: stats.summarise(record.slices).median, default=None)
        peer_cells = (
            ["", ""]
            if peer is None
            else [
                f"{peer.label.split()[1]} {stats.summarise(peer.slices).median:.1f}",
                f"{stats.paired_ratio(ours.slices, peer.slices):.2f}",
            ]
        )
        bar = (f"{BAR:g}, " + ("yes" if over_greedy <= BAR else "no")) if decoder == "beam5" else ""
        rows.append(
            [
                ours.size,
                ours.cell,
                LABELS[decoder],
                f"{summary.median:.1f}",
                f"{summary.noise:.0%}",
                f"{over_greedy:.2f}",
                bar,
                *peer_cells,
                ours.note,
            ]
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="S1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.5, help="of a slice")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to spend on disturbed slices")
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "decoders.md")
    args = parser.parse_args()
    plan = Plan(args.rounds, args.seconds, patience=args.patience)
    rows: list[list[str]] = []
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="capgpu-bench-") as scratch:
        for cell in CELLS:
            for row in rows_of(measure(args.size, cell, plan, args.peer_python, Path(scratch), versions)):
                print("  ".join(row), flush=True)
                rows.append(row)
    conditions = describe(versions, None)
    conditions["command"] = f"`python -m bench.decoding {shlex.join(sys.argv[1:])}`".replace(" `", "`")
    header = ["size", "cell", "way", "ms", "spread", "over greedy", "bar", "PyTorch, ms", "ours / it", "quiet rounds"]
    text = [
        "# Decoders beside greedy decoding, and beside PyTorch",
        "",
        "Written by `python -m bench.decoding`.",
        "",
        *table(["", ""], [[name, value] for name, value in conditions.items()]),
        "",
        "100 captions of 30 words by random models, which hardly ever end one early; backend cpu, `capgpu.decode`. "
        "Medians over slices that take turns; the spread is the interquartile range over the median, ratios are those "
        "of neighbouring slices. PyTorch's is the faster of eager and compiled, the same search written in its "
        "operations; drawing has no peer here.",
        "",
        *table(header, rows),
    ]
    write_atomically(args.out, ("\n".join(text) + "\n").encode())
    print(args.out)


if __name__ == "__main__":
    main()
