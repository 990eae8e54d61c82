"""Measurements that need a fresh process: the peak memory of a step, and the time of the first call.

    python -m bench.fresh [--cells lstm,rnn] [--rounds 2] [--demo]

prints the time of the first float32 step of each cell at the course's size in three programs one after the other: with
an empty folder of compiled kernels, with what the first has compiled, and with all kernels; with ``--demo`` also that
of `make demo`. Nothing else should run meanwhile.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.competitors import Competitor
from bench.process import WorkerFailedError, WorkerProcess

CACHE_VARIABLES = ("NUMBA_CACHE_DIR", "TORCHINDUCTOR_CACHE_DIR", "JAX_COMPILATION_CACHE_DIR")


@dataclass(frozen=True)
class FirstCall:
    """Seconds from the start of the interpreter: imports, then the first loss and gradients."""

    label: str
    cache: str
    import_s: float
    first_s: float


def peak_memory(
    competitor: Competitor, python: str, threads: int | None, size: str, cell: str, job: str, folder: Path
) -> float:
    """Return the growth of peak resident memory during a step in bytes, measured in a separate process.

    Raises
    ------
    WorkerFailedError
        If the worker fails, for instance because the system does not report peaks.
    """
    process = WorkerProcess(competitor, python, threads, folder / "memory.log")
    try:
        hello = process.ask(do="hello")
        if "absent" in hello:
            raise WorkerFailedError(f"{competitor.label}: {hello['absent']}")
        return float(process.ask(do="memory", size=size, cell=cell, job=job)["peak_bytes"])
    finally:
        process.close()


def first_calls(
    competitors: Sequence[tuple[Competitor, str]],
    threads: int | None,
    size: str,
    cell: str,
    folder: Path,
    report_progress: Callable[[str], None],
) -> list[FirstCall]:
    """Measure the first call of each (competitor, interpreter) with empty compile caches, then with full ones."""
    measured = []
    for competitor, python in competitors:
        with tempfile.TemporaryDirectory(dir=folder) as cache:
            environment = {name: str(Path(cache) / name.lower()) for name in CACHE_VARIABLES}
            for state in ("cold", "warm"):
                process = WorkerProcess(competitor, python, threads, folder / "first.log", environment)
                try:
                    hello = process.ask(do="hello")
                    if "absent" in hello:
                        raise WorkerFailedError(f"{competitor.label}: {hello['absent']}")
                    first = process.ask(do="prepare", size=size, cell=cell, job="loss")["first_s"]
                    measured.append(FirstCall(competitor.label, state, float(hello["import_s"]), float(first)))
                except WorkerFailedError as error:
                    report_progress(f"    no first call: {error}")
                finally:
                    process.close()
    return measured


#: Prints seconds and bytes of a first step as JSON. The time of the process that compiles ahead counts once it has
#: ended, which it has where the step needed what it compiled.
FIRST_STEP = """
import json, resource, sys, time
began = time.perf_counter()
import numpy as np
from bench.workloads import SIZES
from capgpu.model import CaptioningRNN
size = SIZES["S1"]
words = {name: index for index, name in enumerate(("<NULL>", "<START>", "<END>", *map(str, range(size.V - 3))))}
model = CaptioningRNN(words, size.D, size.W, size.H, sys.argv[1], np.float32, seed=0)
random = np.random.default_rng(0)
features = random.standard_normal((size.N, size.D)).astype(np.float32)
captions = random.integers(3, size.V, (size.N, size.T + 1))
ready, before = time.perf_counter(), time.process_time()
model.loss(features, captions)
wall, own = time.perf_counter() - ready, time.process_time() - before
child = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps({
    "import s": ready - began, "first step s": wall, "processor s": own,
    "second process s": child.ru_utime + child.ru_stime,
    "peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
"""
DEMO = (
    ("train", "--data", "emoji", "--cell", "lstm", "--out", "{run}", "--force"),
    ("caption", "--run", "{run}", "--split", "test", "--count", "20"),
    ("eval", "--run", "{run}", "--split", "test", "--json", "{run}/test.json", "--sheet", "{run}/test.png"),
    ("eval", "--run", "{run}", "--split", "unseen", "--json", "{run}/unseen.json", "--sheet", "{run}/unseen.png"),
)


def main(argv: Sequence[str] | None = None) -> int:
    """Print the costs of cold and warm starts; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.fresh", description=__doc__.splitlines()[0])
    parser.add_argument("--cells", default="lstm,rnn", help="cells, separated by commas")
    parser.add_argument("--rounds", type=int, default=2, help="cold and warm starts of each")
    parser.add_argument("--demo", action="store_true", help="also time what `make demo` runs")
    args = parser.parse_args(argv)
    for cell in args.cells.split(","):
        for _ in range(args.rounds):
            with tempfile.TemporaryDirectory() as cache:
                # the second run compiles what the first one, which is short, has left to its second process
                for state in ("cold", "second", "warm"):
                    figures = json.loads(_run([sys.executable, "-c", FIRST_STEP, cell], cache))
                    print(f"{cell} {state}: " + ", ".join(f"{name} {value:.1f}" for name, value in figures.items()))
    if args.demo:
        with tempfile.TemporaryDirectory() as cache, tempfile.TemporaryDirectory() as run:
            for state in ("cold", "warm"):
                seconds = []
                for words in DEMO:
                    began = time.perf_counter()
                    command = [word.format(run=run) for word in words]
                    _run([sys.executable, "-c", "from capgpu.cli import main; main()", *command], cache)
                    seconds.append(time.perf_counter() - began)
                parts = ", ".join(f"{words[0]} {own:.1f}" for words, own in zip(DEMO, seconds, strict=True))
                print(f"demo {state}: {sum(seconds):.1f} s ({parts})")
    print(f"load of the last minute: {os.getloadavg()[0]:.1f}")
    return 0


def _run(command: list[str], cache: str) -> str:
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache, "PYTHONPATH": os.getcwd()}
    return subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True, text=True).stdout


if __name__ == "__main__":
    sys.exit(main())
