"""Whether bfloat16 pays on this processor: ``python -m bench.mixed_precision``.

A training step (Adam, dropout 0.3) of our float32, of PyTorch's packed float32, and of PyTorch's packed step under
``torch.autocast`` with bfloat16, which multiplies in bfloat16 and keeps parameters and sums in float32. The three take
turns in one process; a round's ratios compare neighbours in time. Needs PyTorch.
"""

from __future__ import annotations

import argparse
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
    tasks = {
        "capgpu float32": ours.make_task("cpu", work, JOB),
        "PyTorch float32": torch_peer.make_task("packed", work, JOB),
        "PyTorch bfloat16": half,
    }
    for task in tasks.values():
        task.build()
    return {name: task.step for name, task in tasks.items()}


def measure(steps: dict[str, Callable[[], None]], rounds: int, seconds: float) -> dict[str, list[list[float]]]:
    """Return the milliseconds of steps, a list for each round, competitors taking turns."""
    found: dict[str, list[list[float]]] = {name: [] for name in steps}
    for step in steps.values():
        step()
    for _ in range(rounds):
        for name, step in steps.items():
            samples: list[float] = []
            began = time.perf_counter()
            while not samples or time.perf_counter() - began < seconds:
                start = time.perf_counter()
                step()
                samples.append((time.perf_counter() - start) * 1e3)
            found[name].append(samples)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.mixed_precision", description=__doc__.split("\n\n")[0])
    parser.add_argument("--sizes", default="S1,S3", help="sizes, comma-separated (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=5, help="rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each competitor in a round")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "mixed_precision.md")
    args = parser.parse_args()
    rows = []
    for size in args.sizes.split(","):
        for cell in ("lstm", "rnn"):
            wait_until_quiet(60.0)
            found = measure(steps_of(size, cell), args.rounds, args.seconds)
            cells = [f"{side.median:.1f}, spread {side.noise:.0%}" for side in map(summarise, found.values())]
            own, single, half = found.values()
            rows.append([size, cell, *cells, *(f"{paired_ratio(half, other):.2f}" for other in (own, single))])
            print(" | ".join(rows[-1]), flush=True)
    facts = describe({"torch": torch.__version__}, None)
    facts["instructions for bfloat16"] = bfloat16_units()
    facts["command"] = f"`python -m bench.mixed_precision {' '.join(sys.argv[1:])}`".replace(
        str(args.out), args.out.name
    )
    names = ("capgpu float32, ms", "PyTorch float32, ms", "PyTorch bfloat16, ms")
    text = [
        "# A training step in mixed precision",
        "",
        *table(["", ""], [[name, value] for name, value in facts.items()]),
        f"Adam, dropout 0.3, PyTorch packed. Medians over {args.rounds} rounds; the spread is the interquartile range "
        "over the median, a ratio the median over rounds.",
        "",
        *table(["size", "cell", *names, "bfloat16 / capgpu", "bfloat16 / PyTorch float32"], rows),
    ]
    write_atomically(args.out, ("\n".join(text) + "\n").encode())


if __name__ == "__main__":
    main()
