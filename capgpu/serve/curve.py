"""The loss curve of a run, read from its record while training writes it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from capgpu.errors import CapgpuError
from capgpu.serve.documents import Curve, Point, Reward, Score
from capgpu.training.history import is_measurement, parse_record
from capgpu.training.run_folder import RunFolder

__all__ = ["LossCurve"]

#: Single minibatches that a document contains at most: more than a chart has pixels for.
_MAX_POINTS = 600
#: Epochs by which the remaining time is estimated.
_RECENT_EPOCHS = 5
#: Lines of a record, each after the epochs that are done by then.
_Timed = Sequence[tuple[float, dict[str, Any]]]


class LossCurve:
    """Follows the record of a run: losses, and rewards of self-critical training.

    The record is read from where it was last read to; a new run in the same folder is noticed and read from its start.

    Parameters
    ----------
    run : RunFolder
        The run; its record need not exist yet.
    """

    def __init__(self, run: RunFolder) -> None:
        self._run = run
        self._lock = threading.Lock()
        self._reset()

    def _reset(self) -> None:
        self._inode: int | None = None
        self._offset = 0
        self._written = 0.0
        self._start: dict[str, Any] = {}
        self._last: dict[str, Any] = {}
        self._steps: list[dict[str, Any]] = []
        self._epochs: list[dict[str, Any]] = []

    def read(self) -> Curve:
        """Read what training has written since the last call.

        Returns
        -------
        Curve
            All losses so far.
        """
        with self._lock:
            self._follow(self._run.history)
            return self._document()

    def _follow(self, path: Path) -> None:
        try:
            with open(path, "rb") as file:
                stat = os.fstat(file.fileno())
                if stat.st_ino != self._inode or stat.st_size < self._offset:
                    self._reset()
                    self._inode = stat.st_ino
                self._written = stat.st_mtime
                file.seek(self._offset)
                lines = file.read(stat.st_size - self._offset).split(b"\n")
        except FileNotFoundError:
            self._reset()
            return
        for line in lines[:-1]:  # what follows the last line break is still being written
            self._offset += len(line) + 1
            self._take(line)

    def _take(self, line: bytes) -> None:
        record = parse_record(line)
        if record is None:
            return
        self._last = record
        match record.get("kind"):
            case "start":
                self._start = record
            case "step":
                self._steps.append(record)
            case "epoch":
                self._epochs.append(record)

    def _document(self) -> Curve:
        epochs, last = self._epochs, self._last
        total = self._total_epochs()
        per_epoch = _steps_per_epoch(epochs, self._start)
        # the losses of drawn captions measure nothing, their rewards do
        self_critical = self._start.get("self_critical.samples") is not None
        steps = [] if per_epoch is None else self._thinned_steps(per_epoch)
        ends = [(float(record["epoch"]), record) for record in epochs]
        done = epochs[-1]["epoch"] if epochs else 0
        state, reason = self._state()
        validation = _losses(ends, "val_loss")
        seconds = [float(record.get("seconds") or 0) for record in epochs if record["epoch"]]  # the start takes none
        recent = seconds[-_RECENT_EPOCHS:]
        step = max((int(record.get("step", 0)) for record in (last, *epochs[-1:], *self._steps[-1:])), default=0)
        remaining = None
        if state == "training" and recent and per_epoch is not None:
            remaining = max(total - step / per_epoch, 0.0) * sum(recent) / len(recent)
        newest = max((*epochs[-1:], *self._steps[-1:]), key=lambda record: int(record["step"]), default=None)
        return Curve(
            state=state,
            reason=reason,
            epoch=done,
            epochs=max(total, done),
            step=step,
            steps=None if per_epoch is None else round(per_epoch * max(total, done)),
            seconds=sum(seconds),
            remaining=remaining,
            tokens_per_second=None if newest is None else newest.get("tokens_per_second"),
            learning_rate=None if not self._steps else self._steps[-1].get("learning_rate"),
            training_steps=[] if self_critical else _losses(steps, "train_loss"),
            training=[] if self_critical else _losses(ends, "train_loss"),
            validation=validation,
            best=min(validation, key=lambda point: point["loss"], default=None),
            reward_steps=_rewards(steps),
            rewards=_rewards(ends),
            best_score=self._best_score(),
            silent=None if self._inode is None else max(time.time() - self._written, 0.0),
        )

    def _total_epochs(self) -> int:
        try:
            return int(self._run.settings()["epochs"])
        except (
            CapgpuError,
            ValueError,
            TypeError,
            KeyError,
            OverflowError,
            OSError,
        ):  # being written, or of another kind of run
            return 0

    def _state(self) -> tuple[Any, str | None]:
        if self._inode is None:
            return "waiting", None
        if self._last.get("kind") != "end":
            return "training", None
        reason = str(self._last.get("reason"))
        if reason in ("finished", "stopped"):
            return reason, None
        return ("interrupted", None) if reason in ("interrupted", "KeyboardInterrupt") else ("failed", reason)

    def _thinned_steps(self, per_epoch: float) -> _Timed:
        every = max(-(-len(self._steps) // _MAX_POINTS), 1)
        return [(record["step"] / per_epoch, record) for record in self._steps[::every]]

    def _best_score(self) -> Score | None:
        name = self._start.get("best_by")
        # a metric that returns a number alone is "metric"
        keys = (f"metric.{name}", "metric")
        scores = [
            Score(epoch=record["epoch"], name=str(name), score=float(record[key]))
            for record in self._epochs
            for key in keys
            if name not in (None, "val_loss") and is_measurement(record.get(key))
        ]
        return max(scores, key=lambda score: score["score"], default=None)


def _steps_per_epoch(epochs: Sequence[dict[str, Any]], start: dict[str, Any]) -> float | None:
    if epochs and epochs[-1]["step"] and epochs[-1]["epoch"]:
        return float(epochs[-1]["step"]) / float(epochs[-1]["epoch"])
    return start.get("steps_per_epoch")


def _losses(records: _Timed, key: str) -> list[Point]:
    return [Point(epoch=epoch, loss=float(record[key])) for epoch, record in records if record.get(key) is not None]


def _rewards(records: _Timed) -> list[Reward]:
    return [
        Reward(epoch=epoch, reward=float(record["reward"]))
        for epoch, record in records
        if record.get("reward") is not None
    ]
