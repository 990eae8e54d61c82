"""Speed and accuracy of bfloat16 products on this processor: ``python -m bench.mixed_precision``.

A training step (Adam, dropout 0.3) of capgpu in float32 and with ``precision="bf16"``, of PyTorch's packed float32, and
of PyTorch's packed step under ``torch.autocast`` with bfloat16, which like capgpu multiplies in bfloat16 and keeps
parameters and sums in float32. The four alternate in one process; ratios are those of adjacent slices. Needs PyTorch.

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
#: Elapsed time, or the process's processor time, which for a single thread depends little on a busy machine.
CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
CLOCK_NAMES = {"wall": "elapsed time", "cpu": "processor time"}
#: Linux's names of the instruction sets for products of bfloat16.
UNITS = ("avx512_bf16", "amx_bf16", "bf16")


def bfloat16_units() -> str:
    """Return the processor's instructions for products of bfloat16, as Linux lists them."""
    try:
        cpu_flags = set(Path("/proc/cpuinfo").read_text().split())
    except OSError:
        return "unknown"
    return ", ".join(unit for unit in UNITS if unit in cpu_flags) or "none"


def steps_of(size: str, cell: str) -> dict[str, Callable[[], None]]:
    """Return the step of each competitor."""
    work = make_workload(parse_size(size), cell)
    torch_bf16: Any = torch_peer.make_task("packed", work, JOB)
    float32_loss = torch_bf16.loss

    def loss_under_autocast(*args: Any) -> Any:
        with torch.autocast("cpu", torch.bfloat16):
            return float32_loss(*args)

    torch_bf16.loss = loss_under_autocast
    capgpu_bf16 = ours.make_task("cpu", work, JOB)
    capgpu_bf16.model.precision = "bf16"
    tasks = {
        "capgpu float32": ours.make_task("cpu", work, JOB),
        "capgpu bf16": capgpu_bf16,
        "PyTorch float32": torch_peer.make_task("packed", work, JOB),
        "PyTorch bfloat16": torch_bf16,
    }
    for task in tasks.values():
        task.build()
    return {name: task.step for name, task in tasks.items()}


def measure(
    steps: dict[str, Callable[[], None]], rounds: int, seconds: float, clock: Callable[[], float]
) -> dict[str, list[list[float]]]:
    """Time the steps in alternating slices; return the milliseconds per competitor and round."""
    slices: dict[str, list[list[float]]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            samples: list[float] = []
            round_start = clock()
            while not samples or clock() - round_start < seconds:
                start = clock()
                step()
                samples.append((clock() - start) * 1e3)
            slices[name].append(samples)
    return slices


def run_scores(folder: Path) -> list[str]:
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
            slices = measure(steps_of(size, cell), args.rounds, args.seconds, CLOCKS[args.clock])
            cells = [f"{summary.median:.1f}, spread {summary.noise:.0%}" for summary in map(summarise, slices.values())]
            capgpu_float32, capgpu_bf16, torch_float32, torch_bf16 = slices.values()
            pairs = [
                (capgpu_bf16, torch_bf16),
                (capgpu_bf16, capgpu_float32),
                (torch_bf16, capgpu_float32),
                (torch_bf16, torch_float32),
            ]
            rows.append([size, cell, *cells, *(f"{paired_ratio(*pair):.2f}" for pair in pairs)])
            print(" | ".join(rows[-1]), flush=True)
    threads = os.environ.get("OMP_NUM_THREADS")
    conditions = describe({"torch": torch.__version__}, None if threads is None else int(threads))
    conditions["instructions for bfloat16"] = bfloat16_units()
    conditions["command"] = f"`python -m bench.mixed_precision {' '.join(sys.argv[1:])}`".replace(
        str(args.out), args.out.name
    )
    conditions["load of the last minute, at the end"] = f"{os.getloadavg()[0]:.1f}"
    names = ("capgpu float32", "capgpu bf16", "PyTorch float32", "PyTorch bfloat16")
    theirs = [f"PyTorch bfloat16 / {whose} float32" for whose in ("our", "its")]
    ratios = ("bf16 / PyTorch bfloat16", "bf16 / float32", *theirs)
    text = [
        "# A training step in mixed precision",
        "",
        *table(["", ""], [[name, value] for name, value in conditions.items()]),
        f"Adam, dropout 0.3, PyTorch packed. Milliseconds of {CLOCK_NAMES[args.clock]}; medians over {args.rounds} "
        "rounds; the spread is the interquartile range over the median, a ratio the median over rounds. The load "
        f"counts the processes that need one of the {os.cpu_count()} cores, including this one; above that, the "
        "machine was busy with others.",
        "",
        *table(["size", "cell", *names, *ratios], rows),
    ]
    if args.runs:
        header = ["precision", "training loss", "validation loss", "lowest validation loss", "exact on test", "CIDEr"]
        text += [
            "",
            "## What it costs",
            "",
            "The embedded emoji, `capgpu train --data emoji` with and without `--precision bf16`, then `capgpu eval`; "
            "one run of each, of one seed. Losses are nats per word, of the last epoch unless another is named.",
            "",
            *table(header, [run_scores(folder) for folder in args.runs]),
        ]
    write_atomically(args.out, ("\n".join(text) + "\n").encode())


if __name__ == "__main__":
    main()
