"""The process of one competitor: JSON requests on stdin, one JSON reply each on stdout.

    python -m bench.worker MODULE MODE

Requests (key ``do``): ``hello``, ``prepare``, ``check``, ``time``, ``memory``, ``profile``, ``device_time``,
``launches``, ``quit``.  A failed request is answered with ``{"error": ...}``; a competitor whose library or device
is missing answers hello with ``{"absent": ...}``.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import numpy as np

from bench.peers import NoDeviceError
from bench.workloads import make_workload, parse_size, split_job

TINY = "S4"
#: Learning rate with which parameters practically stay the same while steps are timed.
NEGLIGIBLE_RATE = 1e-9
#: Steps that take longer need no warm-up.
SLOW_MS = 1000.0


def die_with_parent() -> None:
    """Ask Linux to kill this process when its parent ends, which a stopped process could not notice."""
    if sys.platform == "linux":
        pr_set_pdeathsig = 1
        ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)


def resident(field: str) -> int:
    """Return VmRSS or VmHWM of this process in bytes (Linux)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    raise OSError(f"no {field} in /proc/self/status")


def trim() -> None:
    """Give freed memory back to the system, as far as the C library can."""
    gc.collect()
    if sys.platform == "linux":
        getattr(ctypes.CDLL(None), "malloc_trim", lambda _: 0)(0)


class Worker:
    """Holds the competitor's current task."""

    def __init__(self, module: str, mode: str) -> None:
        self.name, self.mode = module, mode
        self.module: Any = None
        self.task: Any = None
        self.job = ""
        self.slow = False

    def hello(self, request: dict[str, Any]) -> dict[str, Any]:
        """Import the competitor."""
        start = time.perf_counter()
        try:
            self.module = importlib.import_module(f"bench.peers.{self.name}")
            versions = self.module.versions()
        except (ImportError, NoDeviceError) as error:
            return {"absent": f"{error}"}
        return {
            "versions": versions,
            "import_s": time.perf_counter() - start,
            "python": sys.version.split()[0],
        }

    def prepare(self, request: dict[str, Any]) -> dict[str, Any]:
        """Make the task of (size, cell, job), dropping the one before; time its first step.

        ``precision``, where it is given, is one that the competitor's module knows.
        """
        self.task = None
        self.slow = False
        trim()
        self.job = request["job"]
        work = make_workload(parse_size(request["size"]), request["cell"])
        precision = {"precision": request["precision"]} if "precision" in request else {}
        self.task = self.module.make_task(self.mode, work, self.job, **precision)
        start = time.perf_counter()
        self.task.build()
        self.task.step()
        return {"first_s": time.perf_counter() - start}

    def check(self, request: dict[str, Any]) -> dict[str, Any]:
        """Write the result after the number of steps at which the job is checked, and lower the learning rate.

        Without ``path`` nothing is written.
        """
        for _ in range(2 if split_job(self.job)[0] == "adam" else 0):
            self.task.step()
        if "path" in request:
            np.savez(request["path"], **self.task.result())
        self.task.set_rate(NEGLIGIBLE_RATE)
        return {}

    def time(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time steps for about `seconds`, at least one, after untimed ones for `warm_seconds`, at least one.

        The untimed ones restore caches and threads that the other competitors' slices displaced; they are skipped if a
        step takes longer than a second.
        """
        step = self.task.step
        start = now = time.perf_counter_ns()
        while not self.slow and (now == start or now - start < request["warm_seconds"] * 1e9):
            step()
            now = time.perf_counter_ns()
        samples: list[float] = []
        start = now = time.perf_counter_ns()
        while not samples or now - start < request["seconds"] * 1e9:
            before = time.perf_counter_ns()
            step()
            now = time.perf_counter_ns()
            samples.append((now - before) / 1e6)
        self.slow = min(samples) > SLOW_MS
        return {"ms": samples}

    def memory(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the bytes by which resident memory peaks above its level before the first step.

        Code is warmed up on a tiny workload and compiled before the step where possible, so that the compilers' memory
        is not counted. The peak is taken over three steps, with each result released before the next step, so that
        workspaces kept from the first step count once.
        """
        self.prepare({"size": TINY, "cell": request["cell"], "job": request["job"]})
        self.task = None
        work = make_workload(parse_size(request["size"]), request["cell"])
        self.task = self.module.make_task(self.mode, work, request["job"])
        self.task.build()
        trim()
        resident_before = resident("VmRSS")
        Path("/proc/self/clear_refs").write_text("5")
        for _ in range(3):
            self.task.release()
            self.task.step()
        return {"peak_bytes": resident("VmHWM") - resident_before}

    def profile(self, request: dict[str, Any]) -> dict[str, Any]:
        """Return the milliseconds of a step by part (ours only)."""
        from bench.breakdown import parts_of_step

        for _ in range(3):
            self.task.step()
        return {"parts": parts_of_step(self.task.step, request["steps"])}

    def device_time(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time steps between events on the device, after untimed ones."""
        from bench.cuda.timing import time_steps

        timed = time_steps(self.task, request["warm"], request["steps"], request["filler_ms"])
        return {"ms": timed.steps, "filled_ms": timed.filled, "wall_ms": timed.wall, "queued": timed.queued}

    def launches(self, request: dict[str, Any]) -> dict[str, Any]:
        """Time what a step launches, one by one (ours only)."""
        from bench.cuda.timing import time_launches

        return {"launches": time_launches(self.task, request["steps"], request["filler_ms"])}

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Handle one request; an exception becomes an error reply."""
        try:
            reply: dict[str, Any] = getattr(self, request["do"])(request)
        except Exception as failure:
            traceback.print_exc()
            return {"error": f"{type(failure).__name__}: {failure}"}
        return reply


def main() -> None:
    """Serve requests until ``quit`` or the end of input."""
    die_with_parent()
    # libraries may print to stdout, so replies use a duplicate of it and stdout is redirected to stderr
    channel = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    worker = Worker(sys.argv[1], sys.argv[2])
    for line in sys.stdin:
        request = json.loads(line)
        if request["do"] == "quit":
            break
        print(json.dumps(worker.answer(request)), file=channel, flush=True)


if __name__ == "__main__":
    main()
