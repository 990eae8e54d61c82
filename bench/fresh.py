"""What only a fresh process can tell: the peak memory of a step, and what the first call costs."""

from __future__ import annotations

import tempfile
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
    """Return the bytes by which a step makes resident memory peak, in a process of its own.

    Raises
    ------
    WorkerFailedError
        If the worker fails, as where the system does not tell peaks.
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
    say: Callable[[str], None],
) -> list[FirstCall]:
    """Measure each (competitor, interpreter)'s first call with empty compile caches, then with full ones."""
    found = []
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
                    found.append(FirstCall(competitor.label, state, float(hello["import_s"]), float(first)))
                except WorkerFailedError as failure:
                    say(f"    no first call: {failure}")
                finally:
                    process.close()
    return found
