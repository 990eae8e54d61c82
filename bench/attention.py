"""A training step of the attention captioner beside PyTorch: ``python -m bench.attention``.

Loss, gradients and Adam at a size of `bench.workloads`, on grids of 16 and 49 cells (4 x 4 and 7 x 7), beside a loop as
PyTorch's users write it and `torch.compile` of that (`bench.peers.attention_torch`). The competitors alternate in one
process; ratios are those of adjacent slices. The losses of the first three steps must agree. Needs PyTorch.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from bench.machine import describe
from bench.mixed_precision import CLOCK_NAMES, CLOCKS, measure
from bench.peers.attention_torch import MODES, make_step
from bench.process import ROOT, wait_until_quiet
from bench.report import table, write_atomically
from bench.stats import paired_ratio, summarise
from bench.workloads import ADAM_BETA1, ADAM_BETA2, ADAM_EPS, Size, make_workload, parse_size
from capgpu import CaptioningRNN, set_backend, to_numpy
from capgpu.optim import Optimizer

#: Largest allowed ratios of our time to that of a loop, the faster of the two, and to that of its compiled form.
BARS = {"loop": 0.5, "compiled": 0.8}
#: Largest relative difference of a loss.
TOLERANCE = 1e-4


def steps_of(size: Size, cells: int, modes: list[str]) -> dict[str, Callable[[], float]]:
    """Return the training step of each competitor."""
    set_backend("cpu")
    captions = make_workload(size, "lstm").captions
    features = np.random.default_rng(0).standard_normal((size.N, cells, size.D)).astype(np.float32)
    words = {word: index for index, word in enumerate(["<NULL>", "<START>", "<END>", *map(str, range(3, size.V))])}
    model = CaptioningRNN(words, size.D, size.W, size.H, "attention", seed=0)
    host = {name: to_numpy(value).copy() for name, value in model.params.items()}
    optimizer = Optimizer(
        "adam", {"learning_rate": 1e-3, "beta1": ADAM_BETA1, "beta2": ADAM_BETA2, "epsilon": ADAM_EPS}
    )

    def step() -> float:
        loss, grads = model.loss(features, captions)
        optimizer.step(model.params, grads)
        return float(loss)

    return {"capgpu": step, **{mode: make_step(mode, host, features, captions) for mode in modes}}


def check(steps: dict[str, Callable[[], float]]) -> None:
    """Check that all competitors train alike: the losses of three steps."""
    losses = {name: [step() for _ in range(3)] for name, step in steps.items()}
    for name, values in losses.items():
        if not np.allclose(values, losses["capgpu"], rtol=TOLERANCE):
            raise SystemExit(f"{name} has the losses {values}, capgpu {losses['capgpu']}")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.attention", description=__doc__.split("\n\n")[0])
    parser.add_argument("--size", default="S1", help="size (default: %(default)s)")
    parser.add_argument("--cells", default="16,49", help="cells of a grid, comma-separated (default: %(default)s)")
    parser.add_argument("--modes", default=",".join(MODES), help="PyTorch's forms (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=7, help="rounds (default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="seconds for each competitor in a round")
    parser.add_argument("--wait", type=float, default=60.0, help="most seconds to wait for idle cores before a row")
    parser.add_argument("--clock", choices=CLOCKS, default="wall", help="cpu: for OMP_NUM_THREADS=1")
    parser.add_argument("--out", type=Path, default=ROOT / "bench" / "results" / "attention.md")
    args = parser.parse_args()
    modes, rows = args.modes.split(","), []
    for cells in map(int, args.cells.split(",")):
        steps = steps_of(parse_size(args.size), cells, modes)
        check(steps)
        wait_until_quiet(args.wait)
        slices = measure(steps, args.rounds, args.seconds, CLOCKS[args.clock])
        times = [f"{summary.median:.1f}, spread {summary.noise:.0%}" for summary in map(summarise, slices.values())]
        ratios = [f"{paired_ratio(slices['capgpu'], slices[mode]):.2f}" for mode in modes]
        rows.append([args.size, str(cells), *times, *ratios])
        print(" | ".join(rows[-1]), flush=True)
    threads = os.environ.get("OMP_NUM_THREADS")
    conditions = describe({"torch": torch.__version__}, None if threads is None else int(threads))
    conditions["command"] = f"`python -m bench.attention {' '.join(sys.argv[1:])}`".replace(" `", "`")
    conditions["load of the last minute, at the end"] = f"{os.getloadavg()[0]:.1f}"
    text = [
        "# A training step with attention over a grid",
        "",
        *table(["", ""], [[name, value] for name, value in conditions.items()]),
        f"Loss, gradients and Adam. Milliseconds of {CLOCK_NAMES[args.clock]}; medians over {args.rounds} rounds; the "
        "spread is the interquartile range over the median, a ratio the median over rounds. Bars: at most "
        f"{BARS['loop']:g} of a loop, at most {BARS['compiled']:g} of its compiled form.",
        "",
        *table(["size", "cells", "capgpu", *modes, *(f"capgpu / {mode}" for mode in modes)], rows),
    ]
    write_atomically(args.out, ("\n".join(text) + "\n").encode())


if __name__ == "__main__":
    main()
