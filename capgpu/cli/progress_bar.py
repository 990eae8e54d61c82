"""The progress of long work with the time that remains, on standard error."""

from __future__ import annotations

import sys
import time
from typing import Any

from capgpu.cli.console import echo

__all__ = ["ProgressBar"]

#: Seconds of work after which something is shown, and between lines where there is no terminal.
_FIRST, _BETWEEN = 1.0, 30.0


class ProgressBar:
    """Progress in pictures: a bar on a terminal, else a line now and then; nothing within the first second."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._task: Any = None
        self._start: float | None = None
        self._begun = 0
        self._last_line = 0.0

    def __enter__(self) -> ProgressBar:
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, done: int, total: int) -> None:
        """Show how much is done.

        Parameters
        ----------
        done, total : int
            Finished and all items.
        """
        now = time.monotonic()
        if self._start is None:
            self._start, self._begun = now, done
        if self._bar is not None:
            self._bar.update(self._task, completed=done)
        elif now - self._start >= _FIRST and done < total:
            if sys.stderr.isatty():
                self._open(done, total)
            elif now - self._last_line >= _BETWEEN:
                self._last_line = now
                echo(f"pictures: {done:,} of {total:,}{self._remaining(now, done, total)}", err=True)

    def _remaining(self, now: float, done: int, total: int) -> str:
        if done == self._begun or self._start is None:
            return ""
        seconds = (now - self._start) / (done - self._begun) * (total - done)
        return f", {_duration(seconds)} left"

    def _open(self, done: int, total: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (
            TextColumn("pictures"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("time left"),
            TimeRemainingColumn(),
        )
        self._bar = Progress(*columns, console=Console(stderr=True))
        self._task = self._bar.add_task("pictures", total=total, completed=done)
        self._bar.start()


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
