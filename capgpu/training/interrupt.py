"""Ctrl-C and SIGTERM as requests: the first asks a loop to stop at its next good point, the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["InterruptGuard"]


class InterruptGuard:
    """Context that turns the first SIGINT or SIGTERM into a flag.

    Attributes
    ----------
    requested : bool
        Whether a signal has come.

    Notes
    -----
    Signal handlers belong to the main thread: in another one, and where the program ignores SIGINT or has a
    handler that was not set from Python, the context changes nothing. SIGTERM is handled where the program has no
    handler of its own. The handlers that were there come back at the end.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous_handlers: dict[int, Any] = {}

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGINT, signal.SIGTERM):
                previous = signal.getsignal(signum)
                own = previous != signal.SIG_DFL if signum == signal.SIGTERM else previous == signal.SIG_IGN
                if previous is not None and not own:
                    self._previous_handlers[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        while self._previous_handlers:
            signal.signal(*self._previous_handlers.popitem())
