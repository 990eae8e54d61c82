"""Timing on a device by events in its stream; the host's clock measures only the wall time."""

from __future__ import annotations

import itertools
import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

__all__ = ["Clock", "Timed", "time_launches", "time_steps"]

_FILLED_STEPS = 20


class Clock(Protocol):
    """A library's events on the stream on which it launches."""

    def mark(self) -> Any:
        """Record an event on the stream."""

    def milliseconds(self, start: Any, end: Any) -> float:
        """Return the time between two completed events."""

    def passed(self, event: Any) -> bool:
        """Return whether an event has completed; does not wait."""

    def wait(self) -> None:
        """Wait for all work on the stream."""

    def fill(self, milliseconds: float) -> None:
        """Launch work of about this length, so that the launches after it are queued before the device reaches them."""


@dataclass(frozen=True)
class Timed:
    """Milliseconds of steps.

    Attributes
    ----------
    steps : list of float
        Each step from event to event, launched back to back: the time in a training loop.
    filled : list of float
        Each step launched behind other work: the device's time without waiting for the host.
    wall : float
        Mean by the host's clock.
    queued : bool
        Whether every filled step was launched completely before the device reached it. False means that the host
        takes longer than the work in front, or waits for the device within a step.
    """

    steps: list[float]
    filled: list[float]
    wall: float
    queued: bool


def time_steps(task: Any, warm: int, steps: int, filler_ms: float) -> Timed:
    """Time steps of a task with a method ``launch()`` and an attribute ``clock``, a `Clock`.

    Parameters
    ----------
    task : object
        Task to time.
    warm : int
        Number of untimed steps before.
    steps : int
        Number of timed steps.
    filler_ms : float
        Duration of the work in front of a step; longer than the host needs to launch one.
    """
    clock: Clock = task.clock
    for _ in range(warm):
        task.launch()
    clock.wait()
    start_time = time.perf_counter()
    marks = [clock.mark()]
    for _ in range(steps):
        task.launch()
        marks.append(clock.mark())
    clock.wait()
    wall = (time.perf_counter() - start_time) / steps * 1e3
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


class _NamesWithEvents(list[str]):
    """A list of launch names that records an event whenever a name is appended, which is before the launch."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self.marks: list[Any] = []

    def append(self, name: str) -> None:
        self.marks.append(self._clock.mark())
        super().append(name)


def time_launches(task: Any, steps: int, filler_ms: float) -> list[tuple[str, float]]:
    """Time each launch within a step, from the event before it to the event before the next launch.

    An event costs about a microsecond, which is included in every figure; the resolution is half a microsecond.

    Returns
    -------
    list of (str, float)
        Name and median milliseconds, in the order of the launches; empty if the reference kernels compute.

    Raises
    ------
    RuntimeError
        If two steps launch different kernels.
    """
    from capgpu.kernels.cuda.device_calls import counting

    clock: Clock = task.clock
    task.launch()
    names: list[str] = []
    milliseconds: list[list[float]] = []
    for _ in range(steps):
        clock.wait()
        clock.fill(filler_ms)
        names_with_marks = _NamesWithEvents(clock)
        with counting(names_with_marks):
            task.launch()
            end = clock.mark()
        clock.wait()
        if names and list(names_with_marks) != names:
            raise RuntimeError(f"steps launch different things: {names} and then {list(names_with_marks)}")
        names = list(names_with_marks)
        marks = [*names_with_marks.marks, end]
        milliseconds.append([clock.milliseconds(a, b) for a, b in itertools.pairwise(marks)])
    medians = np.median(milliseconds, axis=0).tolist()
    return list(zip(names, medians, strict=True))
