"""The competitors, one module each, with the interface below.

A module provides ``versions() -> dict[str, str]``, which imports its library and raises ImportError or NoDeviceError if
that is not possible, and ``make_task(mode, work, job) -> Task``.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class NoDeviceError(RuntimeError):
    """The competitor's library is installed but finds no device."""


class Task(Protocol):
    """One job on one workload, ready to be timed."""

    def build(self) -> None:
        """Compile what depends on the shapes, if the library can do so without running."""

    def step(self) -> None:
        """Do the job once and wait for it to finish; the result is kept until the next step."""

    def result(self) -> dict[str, np.ndarray]:
        """Return the last step's loss and gradients, parameters, or words, in the workload's layout."""

    def release(self) -> None:
        """Drop the last step's result."""

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate for the following steps."""
