"""Client side of a worker process: start it, send requests, stop it while others are measured."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from bench.competitors import Competitor

ROOT = Path(__file__).resolve().parent.parent


class WorkerFailedError(RuntimeError):
    """A worker answered with an error, ended, or did not answer in time."""


class WorkerProcess:
    """A competitor's process, stopped (SIGSTOP) except while it handles a request.

    A stopped process cannot spin, so every library can keep its default wait policy; forcing threads to sleep at once
    would slow libraries with many short parallel regions.

    Parameters
    ----------
    competitor : Competitor
    python : str
        The interpreter.
    threads : int or None
        Threads for every library; None leaves their defaults, which is one per core.
    log : Path
        Receives the worker's stderr.
    environment : dict, optional
        Extra variables (cache folders).
    serve : str
        The module to run: `bench.worker`, or one that prepares the process and then calls it.
    """

    def __init__(
        self,
        competitor: Competitor,
        python: str,
        threads: int | None,
        log: Path,
        environment: dict[str, str] | None = None,
        serve: str = "bench.worker",
    ) -> None:
        self.competitor = competitor
        env = dict(os.environ) | (environment or {})
        env["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), env.get("PYTHONPATH", "")]))
        env["TORCHINDUCTOR_COMPILE_THREADS"] = "1"
        command = [python, "-m", serve, competitor.module, competitor.mode]
        if threads is not None:
            for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
                env[f"{name}_NUM_THREADS"] = str(threads)
        self.log = log
        with log.open("wb") as log_file:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                text=True,
                cwd=ROOT,
                env=env,
            )
        if threads is not None and hasattr(os, "sched_setaffinity"):
            # XLA takes its thread count from the cores that it may run on.
            os.sched_setaffinity(self.process.pid, sorted(os.sched_getaffinity(0))[:threads])
        self.stopped = False

    def ask(self, timeout: float = 1800.0, **request: Any) -> dict[str, Any]:
        """Send a request and return the reply; the process runs only meanwhile.

        Raises
        ------
        WorkerFailedError
            If the worker reports an error or ends; with its message and the path of its log.
        """
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._signal(signal.SIGCONT)
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            ready, _, _ = select.select([self.process.stdout], [], [], timeout)
            line = self.process.stdout.readline() if ready else ""
        except BrokenPipeError:
            line = ""
        if not line:
            self.close()
            raise WorkerFailedError(f"{self.competitor.label}: no answer to {request['do']!r}; see {self.log}")
        reply: dict[str, Any] = json.loads(line)
        if "error" in reply:
            raise WorkerFailedError(f"{self.competitor.label}: {reply['error']}; see {self.log}")
        return reply

    def rest(self) -> None:
        """Stop the process until the next request."""
        self._signal(signal.SIGSTOP)

    def cpu_seconds(self) -> float:
        """Return the processor time that the process has used; 0 if it has ended or the system is not Linux."""
        try:
            fields = Path(f"/proc/{self.process.pid}/stat").read_text().rsplit(")", 1)[1].split()
        except OSError:
            return 0.0
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def close(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                with contextlib.suppress(BrokenPipeError):
                    pipe.close()

    def _signal(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)


def busy_seconds() -> float | None:
    """Return the total seconds that all cores have been busy since boot; None on systems other than Linux."""
    if sys.platform != "linux":
        return None
    fields = [int(field) for field in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields[:8]
    return float(user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def wait_until_quiet(limit: float, window: float = 0.3) -> bool:
    """Wait at most `limit` seconds for a window in which the cores are 95% idle; return whether there was one."""
    cores = os.cpu_count() or 1
    deadline = time.monotonic() + limit
    while True:
        before = busy_seconds()
        if before is None:
            return True
        time.sleep(window)
        after = busy_seconds()
        assert after is not None
        if (after - before) / (window * cores) <= 0.05:
            return True
        if time.monotonic() >= deadline:
            return False
