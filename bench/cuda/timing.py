"""Timing on a device: events in its own queue, so that the host's clock is asked only for what the host does."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["Clock", "Timed", "time_launches", "time_steps"]

_FILLED_STEPS = 20


class Clock(Protocol):
    """A library's events on the stream that its work goes to."""

    def mark(self) -> Any:
        """Put an event into the queue."""

    def milliseconds(self, start: Any, end: Any) -> float:
        """Return the time between two events that have passed."""

    def passed(self, event: Any) -> bool:
        """Return whether the device has come to an event; does not wait."""

    def wait(self) -> None:
        """Wait until the queue is empty."""

    def fill(self, milliseconds: float) -> None:
        """Put work of about this length into the queue, so that what follows waits there ready to start."""


@dataclass(frozen=True)
class Timed:
    """Milliseconds of steps.

    Attributes
    ----------
    steps : list of float
        Each, from event to event, steps being launched back to back: what a training loop takes.
    filled : list of float
        Each, launched behind other work: what the device takes where it never waits for the host.
    wall : float
        The mean by the host's clock.
    queued : bool
        Whether every one of the filled steps was launched completely before the device came to it. False means that
        the host needs longer than the work in front, or waits for the device within a step.
    """

    steps: list[float]
    filled: list[float]
    wall: float
    queued: bool


def time_steps(task: Any, warm: int, steps: int, filler_ms: float) -> Timed:
    """Time steps of a task, which has ``launch()`` and a `Clock` called ``clock``.

    Parameters
    ----------
    task : object
        What is timed.
    warm : int
        Steps before, not timed.
    steps : int
        Steps to time.
    filler_ms : float
        Length of the work in front of a step; longer than the host needs to launch one.
    """
    clock: Clock = task.clock
    for _ in range(warm):
        task.launch()
    clock.wait()
    began = time.perf_counter()
    marks = [clock.mark()]
    for _ in range(steps):
        task.launch()
        marks.append(clock.mark())
    clock.wait()
    wall = (time.perf_counter() - began) / steps * 1e3
    filled, queued = [], True
    for _ in range(min(steps, _FILLED_STEPS)):
        clock.fill(filler_ms)
        start = clock.mark()
        task.launch()
        end = clock.mark()
        queued = queued and not clock.passed(start)
        clock.wait()
        filled.append(clock.milliseconds(start, end))
    pairs = itertools.pairwise(marks)
    return Timed([clock.milliseconds(a, b) for a, b in pairs], filled, wall, queued)


class _Marking(list[str]):
    """A list of launches that puts an event into the queue in front of each."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.marks: list[Any] = []

    def append(self, name: str) -> None:
        self.marks.append(self._clock.mark())
        super().append(name)


def time_launches(task: Any, steps: int, filler_ms: float) -> list[tuple[str, float]]:
    """Time each launch of a step in its place, from the event before it to the one before the next.

    An event costs about a microsecond, which is in every figure; the resolution is half of one.

    Returns
    -------
    list of (str, float)
        Name and median milliseconds, in the order of the launches; nothing where the reference computes.

    Raises
    ------
    RuntimeError
        Where two steps launch different things.
    """
    from capgpu.kernels.cuda.device_calls import counting

    clock: Clock = task.clock
    task.launch()
    names: list[str] = []
    taken: list[list[float]] = []
    for _ in range(steps):
        clock.wait()
        clock.fill(filler_ms)
        log = _Marking(clock)
        with counting(log):
            task.launch()
            end = clock.mark()
        clock.wait()
        if names and list(log) != names:
            raise RuntimeError(f"steps launch different things: {names} and then {list(log)}")
        names = list(log)
        marks = [*log.marks, end]
        taken.append([clock.milliseconds(a, b) for a, b in itertools.pairwise(marks)])
    medians = np.median(taken, axis=0).tolist()
    return list(zip(names, medians, strict=True))
