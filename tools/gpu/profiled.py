"""The stage ``counters``: one training step of each size, to be profiled by Nsight Compute.

    ncu -k 'regex:lstm' python -m tools.gpu.profiled [SIZE ...]

There is no warm-up step: hardware counters do not need one.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from bench.peers import cuda_ours
from bench.workloads import make_workload, parse_size

__all__ = ["main"]

SIZES = ("S1", "S3")


def main(argv: Sequence[str] | None = None) -> int:
    """Run one step of each size."""
    for size in (sys.argv[1:] if argv is None else argv) or SIZES:
        task = cuda_ours.make_task("cuda", make_workload(parse_size(size), "lstm"), "adam")
        task.step()
        print(f"a step of {size}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
