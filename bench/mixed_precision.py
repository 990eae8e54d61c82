"""What bfloat16 gains on this processor, and what it costs: ``python -m bench.mixed_precision``.

A training step (Adam, dropout 0.3) of ours in float32 and with ``precision="bf16"``, of PyTorch's packed float32, and
of PyTorch's packed step under ``torch.autocast`` with bfloat16, which multiplies in bfloat16 and keeps parameters and
sums in float32, as ours does. The four take turns in one process; a round's ratios compare neighbours in time. Needs
PyTorch.

``--runs`` adds the losses and the exact matches of run folders that ``capgpu train --data emoji --out FOLDER`` (with
``--precision bf16`` or without) and ``capgpu eval --run FOLDER --json FOLDER/test.json`` wrote.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from bench.machine import describe
from bench.peers import ours, torch_peer
from bench.process import ROOT, wait_until_quiet
from bench.report import table, write_atomically
from bench.stats import paired_ratio, summarise
from bench.workloads import make_workload, parse_size

JOB = "adam-dropout"
#: Elapsed time; the process's time on processors, which a busy machine changes little where there is one thread.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
WORDS = {"wall": "elapsed time", "cpu": "processor time"}
#: What Linux calls a processor's instructions for products of bfloat16.
UNITS = ("avx512_bf16", "amx_bf16", "bf16")


def bfloat16_units() -> str:
    """Return the processor's instructions for products of bfloat16, as Linux lists them."""
    try:
        listed = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return "unknown"
    return ", ".join(unit for unit in UNITS if unit in listed) or "none"


def steps_of(size: str, cell: str) -> dict[str, Callable[[], None]]:
    """Return the step of each competitor."""
    work = make_workload(parse_size(size), cell)
    half: Any = torch_peer.make_task("packed", work, JOB)
    whole_loss = half.loss

    def loss_under_autocast(*args: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return whole_loss(*args)

    half.loss = loss_under_autocast
    rounded = ours.make_task("cpu", work, JOB)
    rounded.model.precision = "bf16"
    tasks = {
        "capgpu float32": ours.make_task("cpu", work, JOB),
        "capgpu bf16": rounded,
        "PyTorch float32": torch_peer.make_task("packed", work, JOB),
        "PyTorch bfloat16": half,
    }
    for task in tasks.values():
        task.build()
    return {name: task.step for name, task in tasks.items()}


def measure(
    steps: dict[str, Callable[[], None]], rounds: int, seconds: float, clock: Callable[[], float]
) -> dict[str, list[list[float]]]:
    """Return the milliseconds of steps, a list for each round, competitors taking turns."""
    found: dict[str, list[list[float]]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            samples: list[float] = []
            began = clock()
            while not samples or clock() - began < seconds:
                start = clock()
                step()
                samples.append((clock() - start) * 1e3)
            found[name].append(samples)
    return found


def trained(folder: Path) -> list[str]:
    """Return precision, losses and test scores of a run folder."""
    config, summary, test = (
        json.loads((folder / name).read_text()) for name in ("config.json", "summary.json", "test.json")
    )
    epochs = [json.loads(line) for line in (folder / "history.jsonl").read_text().splitlines()]
    last = [epoch for epoch in epochs if epoch["kind"] == "epoch"][-1]
    model = next(iter(test["scores"].values()))
    return [
        config["settings"]["precision"],
        f"{last['train_loss']:.4f}",
        f"{last['val_loss']:.4f}",
        f"{summary['val_loss']:.4f}, epoch {summary['best_epoch']}",
        f"{model['exact']:.1%}",
        f"{model['CIDEr']:.2f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.mixed_precision", description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", default="S1,S3", help="sizes, comma-separated (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each competitor in a round")
    parser.add_argument("--wait", type=float, default=60.0, help="most seconds to wait for idle cores before a row")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for OMP_NUM_THREADS=1")
    parser.add_argument("--runs", type=Path, nargs="*", default=[], help="run folders to report the losses of")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "mixed_precision.md")
    args = parser.parse_args()
    rows = []
    for size in args.sizes.split(","):
        for cell in ("lstm", "rnn"):
            wait_until_quiet(args.wait)
            found = measure(steps_of(size, cell), args.rounds, args.seconds, CLOCKS[args.clock])
            cells = [f"{side.median:.1f}, spread {side.noise:.0%}" for side in map(summarise, found.values())]
            own, rounded, single, half = found.values()
            pairs = [(rounded, half), (rounded, own), (half, own), (half, single)]
            rows.append([size, cell, *cells, *(f"{paired_ratio(*pair):.2f}" for pair in pairs)])
            print(" | ".join(rows[-1]), flush=True)
    threads = os.environ.get("OMP_NUM_THREADS")
    facts = describe({"torch": torch.__version__}, None if threads is None else int(threads))
    facts["instructions for bfloat16"] = bfloat16_units()
    facts["command"] = f"`python -m bench.mixed_precision {' '.join(sys.argv[1:])}`".replace(
        str(args.out), args.out.name
    )
    facts["load of the last minute, at the end"] = f"{os.getloadavg()[0]:.1f}"
    names = ("capgpu float32", "capgpu bf16", "PyTorch float32", "PyTorch bfloat16")
    theirs = [f"PyTorch bfloat16 / {whose} float32" for whose in ("our", "its")]
    ratios = ("bf16 / PyTorch bfloat16", "bf16 / float32", *theirs)
    text = [
        "# A training step in mixed precision",
        "",
        *table(["", ""], [[name, value] for name, value in facts.items()]),
        f"Adam, dropout 0.3, PyTorch packed. Milliseconds of {WORDS[args.clock]}, medians over {args.rounds} rounds; "
        "the spread is the interquartile range over the median, a ratio the median over rounds. The load counts the "
        f"processes that want one of the {os.cpu_count()} cores, this one among them: above that, the machine was busy "
        "with others.",
        "",
        *table(["size", "cell", *names, *ratios], rows),
    ]
    if args.runs:
        heads = ["precision", "training loss", "validation loss", "lowest validation loss", "exact on test", "CIDEr"]
        text += [
            "",
            "## What it costs",
            "",
            "The embedded emoji, `capgpu train --data emoji` with and without `--precision bf16`, then `capgpu eval`; "
            "one run of each, of one seed. Losses are nats per word, of the last epoch unless another is named.",
            "",
            *table(heads, [trained(folder) for folder in args.runs]),
        ]
    write_atomically(args.out, ("\n".join(text) + "\n").encode())


if __name__ == "__main__":
    main()
