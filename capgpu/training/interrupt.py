"""Ctrl-C as a request: the first asks a loop to stop at its next good point, the second stops at once."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["InterruptGuard"]


class InterruptGuard:
    """Context that turns the first SIGINT into a flag.

    Attributes
    ----------
    requested : bool
        Whether a SIGINT has come.

    Notes
    -----
    Signal handlers belong to the main thread: in another one, and where the program ignores SIGINT or has a
    handler that was not set from Python, the context changes nothing. The handler that was there comes back
    at the end.
    """

    def __init__(self) -> None:
        self.requested = False
        self._previous_handler: Any = None

    def _handle(self, signum: int, frame: FrameType | None) -> None:
        if self.requested:
            raise KeyboardInterrupt
        self.requested = True

    def __enter__(self) -> InterruptGuard:
        if threading.current_thread() is threading.main_thread():
            previous_handler = signal.getsignal(signal.SIGINT)
            if previous_handler not in (None, signal.SIG_IGN):
                self._previous_handler = previous_handler
                signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._previous_handler is not None:
            signal.signal(signal.SIGINT, self._previous_handler)
            self._previous_handler = None
