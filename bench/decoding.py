"""How long decoders take beside greedy decoding and beside PyTorch: ``python -m bench.decoding``.

100 captions of 30 words, at a size of `bench.workloads`. Its random models hardly ever write END, so that no decoder
is done early: this is the most that a caption costs. Every way and every competitor has a process of its own, stopped
while others are timed; slices take turns, and ratios are those of slices that lie side by side.
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
WAYS = {
    "greedy": "greedy",
    "words": "greedy, words alone (model.sample)",
    "beam5": "beam of 5",
    "drawn": "drawn, temperature 1",
    "nucleus": "drawn from the nucleus of 0.9",
}
#: Most that a beam of 5 over greedy may be.
BAR = 5.0
#: Relative difference of captions' log-probabilities from PyTorch's, norm-wise. The words of a few may be others:
#: random models have many captions of nearly equal probability, and rounding decides which of them a beam keeps.
TOLERANCE = 1e-4


def measure(
    size: str, cell: str, plan: Plan, peer_python: str, scratch: Path, versions: dict[str, str]
) -> list[Record]:
    """Time all ways at a size and cell, ours and PyTorch's; adds to `versions` what they run on."""
    own = [(Competitor(f"capgpu {way}", "decoding_ours", "cpu", "ours"), way) for way in OURS]
    others = [
        (Competitor(f"torch {mode} {way}", "decoding_torch", mode, "peer"), way)
        for way in ("greedy", "beam5")
        for mode in PEERS
    ]
    records: dict[str, Record] = {}
    running: list[WorkerProcess] = []
    scores = {}
    try:
        for competitor, way in own + others:
            python = sys.executable if competitor.kind == "ours" else peer_python
            process = WorkerProcess(competitor, python, None, scratch / f"{competitor.label.replace(' ', '-')}.log")
            running.append(process)
            record = records[competitor.label] = Record(size, cell, way, competitor.label, competitor.kind)
            hello = process.ask(do="hello")
            if "absent" in hello:
                record.status, record.note = "absent", hello["absent"]
                running.remove(process)
                process.close()
                continue
            versions |= hello["versions"]
            record.first_s = process.ask(do="prepare", size=size, cell=cell, job=way)["first_s"]
            got = checked_result(process, scratch)
            process.rest()
            if competitor.kind == "ours":
                scores[way] = got
            else:
                record.error = stats.worst_error(got, scores[way])
                if record.error > TOLERANCE:
                    raise SystemExit(f"{competitor.label} finds captions of other scores ({record.error:.1e})")
        quiet = take_rounds(running, records, plan)
    finally:
        for process in running:
            process.close()
    print(f"{size} {cell}: {quiet} of {plan.rounds} rounds undisturbed", flush=True)
    for record in records.values():
        record.note = record.note or f"{quiet} of {plan.rounds}"
    return list(records.values())


def rows_of(records: list[Record]) -> list[list[str]]:
    """Make a row a way: ours, beside our greedy decoding and the faster of PyTorch's."""
    timed = {record.label: record for record in records if record.slices}
    rows = []
    for way in OURS:
        ours = timed[f"capgpu {way}"]
        summary = stats.summarise(ours.slices)
        over_greedy = stats.paired_ratio(ours.slices, timed["capgpu greedy"].slices)
        peers = [timed[label] for mode in PEERS if (label := f"torch {mode} {way}") in timed]
        peer = min(peers, key=lambda record: stats.summarise(record.slices).median, default=None)
        beside = (
            ["", ""]
            if peer is None
            else [
                f"{peer.label.split()[1]} {stats.summarise(peer.slices).median:.1f}",
                f"{stats.paired_ratio(ours.slices, peer.slices):.2f}",
            ]
        )
        bar = (f"{BAR:g}, " + ("yes" if over_greedy <= BAR else "no")) if way == "beam5" else ""
        rows.append(
            [
                ours.size,
                ours.cell,
                WAYS[way],
                f"{summary.median:.1f}",
                f"{summary.noise:.0%}",
                f"{over_greedy:.2f}",
                bar,
                *beside,
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
    facts = describe(versions, None)
    facts["command"] = f"`python -m bench.decoding {shlex.join(sys.argv[1:])}`".replace(" `", "`")
    header = ["size", "cell", "way", "ms", "spread", "over greedy", "bar", "PyTorch, ms", "ours / it", "quiet rounds"]
    text = [
        "# Decoders beside greedy decoding, and beside PyTorch",
        "",
        "Written by `python -m bench.decoding`.",
        "",
        *table(["", ""], [[name, value] for name, value in facts.items()]),
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
