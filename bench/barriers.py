"""The time of a barrier of the host's thread pool, for several numbers of threads.

    python -m bench.barriers [--threads 2,4,16,64] [--seconds 1]

More threads than processors take turns on them: a barrier then waits for the system to run each thread once. What more
processors would need is estimated from the barrier of two threads, which is one round: n threads make ceil(log2(n)).
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from capgpu.kernels.cpu.job_slot import barrier
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.thread_pool import ThreadPool
from capgpu.threads import usable_processors

#: Barriers of a job.
STEPS = 200


@parallel_job(barriers=True)
def _meet(index, count, slot, steps, present):  # type: ignore[no-untyped-def]  # compiled
    present[index] = count
    for step in range(steps):
        if not barrier(slot, index, count, step + 1):
            return


def barrier_times(n_threads: int, seconds: float) -> list[float]:
    """Return the seconds a barrier takes in each of several jobs, in all of which all threads took part."""
    pool, present = ThreadPool(n_threads, patience=10.0), np.zeros(n_threads, np.int64)
    times: list[float] = []
    try:
        pool.run(n_threads, _meet, 1, present)
        while pool.serving < n_threads - 1:
            time.sleep(1e-3)
        end = time.perf_counter() + seconds
        while time.perf_counter() < end or len(times) < 3:
            start = time.perf_counter()
            pool.run(n_threads, _meet, STEPS, present)
            took = time.perf_counter() - start
            if (present == n_threads).all():
                times.append(took / STEPS)
    finally:
        pool.close()
    return times


def main(argv: Sequence[str] | None = None) -> int:
    """Print a table; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.barriers", description=__doc__.splitlines()[0])
    parser.add_argument("--threads", default="2,4,16,64", help="numbers of threads, separated by commas")
    parser.add_argument("--seconds", type=float, default=1.0, help="of each")
    args = parser.parse_args(argv)
    processors = usable_processors()
    print(f"{processors} processors; microseconds a barrier")
    print("| threads | least | median | estimate for as many processors |")
    print("| ---: | ---: | ---: | ---: |")
    round_time = min(barrier_times(2, args.seconds))
    for n_threads in map(int, args.threads.split(",")):
        times = barrier_times(n_threads, args.seconds)
        estimate = math.ceil(math.log2(n_threads)) * round_time
        print(f"| {n_threads} | {1e6 * min(times):.2f} | {1e6 * statistics.median(times):.2f} | {1e6 * estimate:.2f} |")
    print(f"load of the last minute: {os.getloadavg()[0]:.1f}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
