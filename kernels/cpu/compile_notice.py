"""A line on stderr for compilations that take longer than a second, and the total compilation time.

Numba reports the start and the end of each compilation to listeners (`numba.core.event`). A kernel compiles the
functions that it calls: only the outermost compilation is counted. Waiting for another process that compiles the kernel
(`capgpu.kernels.cpu.claims`) counts as compiling.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from numba.core import event

from capgpu.distributed.launch import launch

__all__ = ["Notice", "notice"]

#: Seconds after which a compilation is announced.
PATIENCE = 1.0


class Notice(event.Listener):  # type: ignore[misc]  # Numba's classes have no types here
    """Listens to compilations of this package's kernels.

    Attributes
    ----------
    seconds : float
        Time of all compilations that have ended.
    """

    def __init__(self) -> None:
        self.seconds = 0.0
        self._depth = 0
        self._started = 0.0
        self._timer: threading.Timer | None = None
        self._written = False
        self._lock = threading.RLock()  # reentrant: a signal handler may compile, too

    def on_start(self, event: Any) -> None:
        """Start the timer at the outermost compilation (Numba compiles in one thread at a time)."""
        function = event.data["dispatcher"].py_func
        if self._depth == 0 and not function.__module__.startswith(f"{__package__}."):
            return
        self._begin(function.__module__.rpartition(".")[2])

    @contextlib.contextmanager
    def waiting(self, module: str) -> Iterator[None]:
        """Count the time of this context, in which another process compiles a kernel of a module."""
        self._begin(module)
        try:
            yield
        finally:
            self.on_end(None)

    def _begin(self, name: str) -> None:
        self._depth += 1
        if self._depth == 1:
            self._started, self._written = time.perf_counter(), False
            self._timer = threading.Timer(PATIENCE, self._announce, [name])
            self._timer.daemon = True
            with contextlib.suppress(RuntimeError):  # the thread cannot be started: compile without a notice
                self._timer.start()

    def on_end(self, event: Any) -> None:
        """Stop the timer at the end of the outermost compilation, and complete the line if it was written."""
        if self._depth == 0:
            return
        self._depth -= 1
        if self._depth == 0 and self._timer is not None:
            seconds = time.perf_counter() - self._started
            self.seconds += seconds
            self._timer.cancel()
            with self._lock:
                self._timer = None
                if self._written:
                    _write(f" {seconds:.0f} s\n")

    def _announce(self, name: str) -> None:
        place = launch()
        if place is not None and place.rank > 0:  # rank 0 prints for all
            return
        with self._lock:
            if self._timer is threading.current_thread():
                self._written = True
                _write(f"capgpu: compiling the kernels of {name} for this processor, once ...")


def _write(text: str) -> None:
    # without stderr, or with a closed one, nothing is written
    with contextlib.suppress(AttributeError, OSError, ValueError):
        sys.stderr.write(text)
        sys.stderr.flush()


notice = Notice()
event.register("numba:compile", notice)
