"""The competitors: one module each, all with the face below.

A module offers ``versions() -> dict[str, str]`` (importing its library there, so that absence shows as
ImportError, or as NoDeviceError) and ``make_task(mode, work, job) -> Task``.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np


class NoDeviceError(RuntimeError):
    """The competitor's library is there, the device it would compute on is not."""


class Task(Protocol):
    """One job on one workload, ready to be timed."""

    def build(self) -> None:
        """Compile whatever depends on the shapes, where that can be told from running."""

    def step(self) -> None:
        """Do the job once and wait for it to finish; the result is kept until the next step."""

    def result(self) -> dict[str, np.ndarray]:
        """Return the last step's loss and gradients, parameters, or words, in the workload's layout."""

    def release(self) -> None:
        """Drop the last step's result."""

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate from here on."""
