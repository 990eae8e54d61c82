"""The stage ``times``: timings of the device's kernels and of whole training steps, in one process.

    python -m tools.gpu.times --out DIR [--tiny]

CuPy and PyTorch share the legacy default stream here, so that one clock serves both (`capgpu.kernels.cuda.stopwatch`).
Each table is written as soon as it is complete. Exit status: 0 all tables were made; 1 one failed, or emulated figures
would be written into the folder of measurements; 2 there is no device.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.cuda.run import RESULTS
from bench.machine import commit, processor
from bench.peers import NoDeviceError, cuda_ours
from tools.gpu import time_recurrences, time_steps
from tools.gpu.stages import NO_DEVICE
from tools.gpu.tables import Findings, Part

__all__ = ["FULL", "TINY", "main", "parts"]


@dataclass(frozen=True)
class Extents:
    """Problem sizes of the tables.

    Attributes
    ----------
    H : int
        Hidden units.
    shapes : tuple of (int, int)
        Number of captions N and of steps T of each timed recurrence.
    latency : (int, int)
        Numbers of steps of the two recurrences whose difference in time gives the latency of a step.
    sizes : tuple of str
        Names of the training steps' sizes (`bench.workloads`).
    copied, side : int
        Elements of the copied array; order of the square matrices that are multiplied.
    scores : (int, int)
        Rows and vocabulary size for the kernels timed alone.
    batches, steps : int
        Batches of which a figure is the median; steps timed by the host's clock.
    """

    H: int
    shapes: tuple[tuple[int, int], ...]
    latency: tuple[int, int]
    sizes: tuple[str, ...]
    copied: int
    side: int
    scores: tuple[int, int]
    batches: int
    steps: int


#: Shapes of S1 and S3 with all captions of full length; scores and vocabulary of a minibatch of S3.
FULL = Extents(512, ((64, 16), (128, 20)), (32, 288), ("S1", "S3"), 2**28, 8192, (1215, 10000), 7, 60)
#: A smoke test, which the stand-in can run as well.
TINY = Extents(8, ((3, 2),), (2, 3), ("S4:N=3,D=4,W=5,H=6,V=12,T=4",), 64, 8, (5, 12), 1, 2)


def parts(extents: Extents) -> list[Part]:
    """Return all tables to make, in their order."""
    return [
        time_steps.ceilings(extents.copied, extents.side, extents.batches),
        *time_recurrences.parts(extents.H, extents.shapes, extents.latency, extents.batches),
        time_steps.steps(extents.sizes, extents.batches, extents.steps),
        time_steps.launches(extents.sizes, extents.steps // 2),
        time_steps.alone(*extents.scores, extents.H, extents.batches),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Make all tables; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m tools.gpu.times", description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of times.json and times.md")
    parser.add_argument("--tiny", action="store_true", help="smallest sizes, as a smoke test; the figures mean nothing")
    parser.add_argument(
        "--only", default="", help="comma-separated words: only tables whose heading contains one of them"
    )
    args = parser.parse_args(argv)
    try:
        about = cuda_ours.versions()
    except NoDeviceError as error:
        print(f"nothing to time: {error}", file=sys.stderr)
        return NO_DEVICE
    if about["emulated"] and args.out.resolve() == RESULTS:
        print("a stand-in's figures do not go where measurements are kept: give another --out", file=sys.stderr)
        return 1
    del about["peaks"]
    args.out.mkdir(parents=True, exist_ok=True)
    findings = Findings(args.out, about | {"host": processor(), "commit": commit()})
    words = args.only.split(",")
    for part in parts(TINY if args.tiny else FULL):
        if any(word in part.name for word in words):
            findings.add(part)
    if findings.failed:
        print(f"failed: {', '.join(findings.failed)}")
    return 1 if findings.failed else 0


if __name__ == "__main__":
    sys.exit(main())
