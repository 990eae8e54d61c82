"""Reporting of a training run, to the progress display and to the history."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from capgpu.kernels import compile_seconds
from capgpu.training.history import HistoryWriter
from capgpu.training.progress import make_progress

__all__ = ["Reporter", "clock"]


def clock() -> float:
    """Return a time in seconds that stands still while kernels are compiled: it measures training."""
    return time.perf_counter() - compile_seconds()


class Reporter:
    """Sends steps and epochs to the display and to the history, with the speed measured in between.

    Parameters
    ----------
    verbose : bool
        Whether to show anything.
    history : path or None
        JSON Lines file to append to.
    step : int
        Updates made before.
    total_steps, total_epochs : int
        Where the run is to end.
    tokens_per_step : float
        Words in a minibatch, on average.
    scored : bool
        Whether losses per word of whole epochs will be shown: those of steps are then, too.
    """

    def __init__(
        self,
        verbose: bool,
        history: str | os.PathLike[str] | None,
        step: int,
        total_steps: int,
        total_epochs: int,
        tokens_per_step: float,
        *,
        scored: bool = False,
    ) -> None:
        self._history = None if history is None else HistoryWriter(history)
        self._progress = make_progress(verbose, total_steps, step, scored=scored)
        self._total_epochs = total_epochs
        self._tokens_per_step = tokens_per_step
        self._epoch_mark = self._step_mark = (step, clock())

    def write(self, kind: str, **values: Any) -> None:
        """Append a line to the history."""
        if self._history is not None:
            self._history.write(kind, **values)

    def note(self, text: str) -> None:
        """Show a line that stays."""
        self._progress.note(text)

    def begin_epoch(self, step: int) -> None:
        """Start the clock of an epoch, or of the rest of one."""
        self._epoch_mark = self._step_mark = (step, clock())

    def _speed(self, step: int, mark: tuple[int, float]) -> tuple[float, float]:
        seconds = clock() - mark[1]
        return seconds, (step - mark[0]) * self._tokens_per_step / max(seconds, 1e-9)

    def step(
        self, step: int, epoch: int, loss: float, train_loss: float, learning_rate: float, **values: float
    ) -> None:
        """Report one step, with its loss per caption and per word, and further `values` for the history.

        `epoch` is the current one, counted from 1.
        """
        _, speed = self._speed(step, self._step_mark)
        self._step_mark = (step, clock())
        self._progress.step(step, loss, train_loss, speed, values.get("reward"))
        self.write(
            "step",
            step=step,
            epoch=epoch,
            loss=loss,
            train_loss=train_loss,
            learning_rate=learning_rate,
            tokens_per_second=speed,
            **values,
        )

    def end_updates(self, step: int) -> dict[str, float]:
        """Stop the clock of an epoch's updates; return their time and speed."""
        self._progress.at(step)
        seconds, speed = self._speed(step, self._epoch_mark)
        return {"seconds": seconds, "tokens_per_second": speed}

    def epoch(self, record: Mapping[str, Any]) -> None:
        """Report a finished epoch."""
        self.write("epoch", **record)
        if "val_loss" in record or "metric" in record:
            # the loss of drawn captions measures nothing, their reward does; the start has neither
            name, unit = ("reward", "") if "reward" in record else ("train_loss", " per word")
            parts = [f"{name.replace('_', ' ')}: {record[name]:.4f}{unit}"] if name in record else []
            if "val_loss" in record:
                parts.append(f"val loss: {record['val_loss']:.4f} per word")
            if "metric" in record:
                scores = record["metric"]
                parts += [
                    f"{score}: {value if value is None else format(value, '.4f')}"
                    for score, value in (scores if isinstance(scores, Mapping) else {"metric": scores}).items()
                ]
            self.note(f"(Epoch {record['epoch']} / {self._total_epochs}) {'; '.join(parts)}")

    def close(self) -> None:
        """Close the display and write the history to disk."""
        self._progress.close()
        if self._history is not None:
            self._history.close()
