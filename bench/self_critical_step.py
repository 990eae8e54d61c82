"""Time of a self-critical step beside PyTorch with pycocoevalcap: ``python -m bench.self_critical_step``.

5 captions of each picture of a minibatch are drawn, scored by CIDEr-D with the document frequencies of 5,000 pictures,
and Adam updates the parameters. Models are random, but end a caption with a probability of 0.1 at each word. Every
competitor runs in its own process, stopped while others are timed; slices alternate, and ratios are those of adjacent
slices. Before anything is timed, the rewards of fixed captions are compared.
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

MODES = ("one pass", "two passes")
JOBS = ("step", "reward")
#: Largest allowed ratio of the time of a step to PyTorch's.
BAR = 0.5
#: Norm-wise relative tolerance of rewards.
TOLERANCE = 1e-6


def measure(
    size: str, cell: str, plan: Plan, peer_python: str, scratch: Path, versions: dict[str, str]
) -> dict[str, Record]:
    """Time steps and rewards of all competitors at a size and cell; adds the libraries' versions to `versions`."""
    competitors = [
        (Competitor(f"{name} {job}", module, mode, kind), job)
        for name, module, mode, kind in (
            ("capgpu", "self_critical_ours", "cpu", "ours"),
            *((f"torch, {mode}", "self_critical_torch", mode, "peer") for mode in MODES),
        )
        for job in JOBS
        if not (job == "reward" and mode == MODES[1])  # the same as that of the other
    ]
    records: dict[str, Record] = {}
    processes: list[WorkerProcess] = []
    expected = None
    try:
        for competitor, job in competitors:
            python = sys.executable if competitor.kind == "ours" else peer_python
            process = WorkerProcess(competitor, python, None, scratch / f"{competitor.label.replace(' ', '-')}.log")
            processes.append(process)
            record = records[competitor.label] = Record(size, cell, job, competitor.label, competitor.kind)
            greeting = process.ask(do="hello")
            if "absent" in greeting:
                raise SystemExit(f"{competitor.label}: {greeting['absent']}")
            versions |= greeting["versions"]
            record.first_s = process.ask(do="prepare", size=size, cell=cell, job=job)["first_s"]
            result = checked_result(process, scratch)
            process.rest()
            expected = result if expected is None else expected
            record.error = stats.worst_error(result, expected)
            if record.error > TOLERANCE:
                raise SystemExit(f"{competitor.label} has other rewards ({record.error:.1e})")
        n_quiet = take_rounds(processes, records, plan)
    finally:
        for process in processes:
            process.close()
    print(f"{size} {cell}: {n_quiet} of {plan.rounds} rounds undisturbed", flush=True)
    for record in records.values():
        record.note = f"{n_quiet} of {plan.rounds}"
    return records


def row_of(records: dict[str, Record]) -> list[str]:
    """Return the table's row of a size and cell."""
    ours, our_reward = records["capgpu step"], records["capgpu reward"]
    peers = [records[f"torch, {mode} step"] for mode in MODES]
    peer = min(peers, key=lambda record: stats.summarise(record.slices).median)
    ratio = stats.paired_ratio(ours.slices, peer.slices)
    shares = [
        stats.paired_ratio(reward.slices, step.slices)
        for reward, step in ((our_reward, ours), (records["torch, one pass reward"], peer))
    ]
    return [
        ours.size,
        ours.cell,
        f"{stats.summarise(ours.slices).median:.1f}",
        f"{stats.summarise(ours.slices).noise:.0%}",
        f"{shares[0]:.0%}",
        *(f"{stats.summarise(record.slices).median:.1f}" for record in peers),
        f"{shares[1]:.0%}",
        f"{ratio:.2f}",
        f"{BAR:g}, {'yes' if ratio <= BAR else 'no'}",
        ours.note,
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", default="S1")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=1.0, help="of a slice")
    parser.add_argument("--patience", type=float, default=60.0, help="seconds to spend on disturbed slices")
    parser.add_argument("--peer-python", default=sys.executable, help="the interpreter that has PyTorch")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "self_critical_step.md")
    args = parser.parse_args()
    plan = Plan(args.rounds, args.seconds, patience=args.patience)
    rows: list[list[str]] = []
    versions: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="capgpu-bench-") as scratch:
        for cell in CELLS:
            rows.append(row_of(measure(args.size, cell, plan, args.peer_python, Path(scratch), versions)))
            print("  ".join(rows[-1]), flush=True)
    conditions = describe(versions, None)
    conditions["command"] = f"`python -m bench.self_critical_step {shlex.join(sys.argv[1:])}`".replace(" `", "`")
    header = [
        "size", "cell", "capgpu, ms", "spread", "its reward", "PyTorch, one pass, ms", "two passes, ms", "its reward",
        "ours / faster", "bar", "quiet rounds",
    ]  # fmt: skip
    text = [
        "# A self-critical step beside PyTorch with pycocoevalcap",
        "",
        *table(["", ""], [[name, value] for name, value in conditions.items()]),
        " ".join((__doc__ or "").split("\n\n", 1)[1].split()),
        "",
        "Medians; the spread is the interquartile range over the median. *Its reward* is the share of the reward in "
        "the step. PyTorch draws and keeps the log-probabilities with their gradients (one pass), or draws and then "
        "runs `nn.LSTM` or `nn.RNN` over the packed captions (two passes).",
        "",
        *table(header, rows),
    ]
    write_atomically(args.out, ("\n".join(text).rstrip() + "\n").encode())


if __name__ == "__main__":
    main()
