"""Python's garbage collector while kernels are compiled: it searches rarely.

Numba and LLVM's bindings allocate hundreds of thousands of objects a kernel, few of them in cycles; by default each
700 new ones start a search of the youngest, and in the end of all objects, of Numba too. That was 1.1 s of the 15 s of
processor time of a first LSTM loss (Python 3.11); with the thresholds here it is 0.6 s, for 14 MB more at the peak.
"""

from __future__ import annotations

import contextlib
import gc
import os
import threading
from collections.abc import Iterator

__all__ = ["COMPILING", "rare_collections"]

#: The collector's thresholds while kernels are compiled (`gc.set_threshold`).
COMPILING = (20_000, 50, 100)


class _State:
    """How many contexts are open, in all threads, and the thresholds before the first of them."""

    def __init__(self) -> None:
        self.lock = threading.RLock()  # reentrant: a signal handler may compile, too
        self.depth = 0
        self.before: tuple[int, int, int] | None = None

    def enter(self) -> None:
        with self.lock:
            self.depth += 1
            thresholds = gc.get_threshold()
            # 0 means that nothing is collected
            if self.depth == 1 and 0 < thresholds[0] < COMPILING[0]:
                self.before = thresholds
                gc.set_threshold(*COMPILING)

    def leave(self) -> None:
        with self.lock:
            self.depth -= 1
            if self.depth == 0:
                self.restore()

    def restore(self) -> None:
        before, self.before = self.before, None
        # thresholds that someone else has set meanwhile stay
        if before is not None and gc.get_threshold() == COMPILING:
            gc.set_threshold(*before)


_state = _State()


@contextlib.contextmanager
def rare_collections() -> Iterator[None]:
    """Collect garbage rarely in this context; the last thread that leaves one restores the thresholds."""
    _state.enter()
    try:
        yield
    finally:
        _state.leave()


def _forget() -> None:
    """Restore the thresholds in a forked child: the thread that would do so may not exist there."""
    _state.lock, _state.depth = threading.RLock(), 0
    _state.restore()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)
