"""Progress display of training: a live bar on a terminal, plain lines elsewhere, or nothing."""

from __future__ import annotations

import sys
from typing import Any, Protocol

from capgpu.visible_text import visible

__all__ = ["Progress", "make_progress"]


class Progress(Protocol):
    """Interface between the solver and a display."""

    def step(
        self, step: int, loss: float, train_loss: float, tokens_per_second: float, reward: float | None = None
    ) -> None:
        """Show that `step` updates are done, with the last one's loss per caption and per word, or its reward."""

    def at(self, step: int) -> None:
        """Show that `step` updates are done, where that takes no line."""

    def note(self, text: str) -> None:
        """Show a line that stays."""

    def close(self) -> None:
        """Close the display."""


def make_progress(verbose: bool, total: int, done: int = 0, *, scored: bool = False) -> Progress:
    """Choose the display of a run.

    Parameters
    ----------
    verbose : bool
        False shows nothing.
    total : int
        Updates of the whole run.
    done : int
        Updates already made.
    scored : bool
        Whether lines beside those of steps show losses per word: all lines do so then.

    Returns
    -------
    Progress
        A bar if standard output is a terminal, else lines in the manner of the cs231n exercises.
    """
    if not verbose:
        return _Silent()
    return _Bar(total, done) if sys.stdout.isatty() else _Lines(total, scored)


class _Silent:
    def step(
        self, step: int, loss: float, train_loss: float, tokens_per_second: float, reward: float | None = None
    ) -> None:
        pass

    def at(self, step: int) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def close(self) -> None:
        pass


class _Lines:
    def __init__(self, total: int, scored: bool) -> None:
        self._total, self._scored = total, scored

    def step(
        self, step: int, loss: float, train_loss: float, tokens_per_second: float, reward: float | None = None
    ) -> None:
        per_word = f" per caption, {train_loss:.4f} per word" if self._scored else ""
        shown = f"loss: {loss:.6f}{per_word}" if reward is None else f"reward: {reward:.4f}"
        print(f"(Iteration {step} / {self._total}) {shown}", flush=True)

    def at(self, step: int) -> None:
        pass

    def note(self, text: str) -> None:
        print(visible(text), flush=True)

    def close(self) -> None:
        pass


class _Bar:
    def __init__(self, total: int, done: int) -> None:
        from rich import progress

        self._bar: Any = progress.Progress(
            progress.TextColumn("training"),
            progress.BarColumn(bar_width=None),
            progress.MofNCompleteColumn(),
            progress.TextColumn("{task.fields[shown]}"),
            progress.TextColumn("{task.fields[rate]} tokens/s"),
            progress.TextColumn("time left"),
            progress.TimeRemainingColumn(),
            expand=True,
        )
        self._task = self._bar.add_task("training", total=total, completed=done, shown="", rate="-")
        self._bar.start()

    def step(
        self, step: int, loss: float, train_loss: float, tokens_per_second: float, reward: float | None = None
    ) -> None:
        shown = f"loss per word {train_loss:.4f}" if reward is None else f"reward {reward:.4f}"
        self._bar.update(self._task, completed=step, shown=shown, rate=f"{tokens_per_second:,.0f}")

    def at(self, step: int) -> None:
        self._bar.update(self._task, completed=step)

    def note(self, text: str) -> None:
        self._bar.console.print(visible(text), markup=False, highlight=False)

    def close(self) -> None:
        self._bar.stop()
