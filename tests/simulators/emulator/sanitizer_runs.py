"""Checks of recorded launches as data, so that a test session can run all of them concurrently."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from simulators.emulator import build
from simulators.emulator.mutations import ADDRESS, THREAD, Mutation, finding
from simulators.emulator.recording import Recording

SANITIZERS = {ADDRESS: build.ADDRESS, THREAD: build.THREAD}


@dataclass(frozen=True)
class SanitizerRun:
    """A checker applied to the launches of a kernel.

    Attributes
    ----------
    dtype, variant : str
        The kernel; `variant` may be its name only, for the first of its variants.
    checker : str
        One of `simulators.emulator.mutations`.
    mutation : Mutation, optional
        Applied to the kernel's source first.
    """

    dtype: str
    variant: str
    checker: str
    mutation: Mutation | None = None

    def __str__(self) -> str:
        if self.mutation is None:
            return f"{self.variant}-{self.dtype}-{self.checker}"
        return f"{self.mutation}-{self.checker}"

    def missing(self) -> str | None:
        """Return why the run is not possible on this machine, or None."""
        return build.missing_sanitizer(SANITIZERS[self.checker]) if self.checker in SANITIZERS else build.missing()

    def run(self, recordings: Sequence[Recording], build_cache: build.BuildCache) -> str:
        """Return the first finding, or an empty string."""
        for recorded in recordings:
            code = None if self.mutation is None else self.mutation.apply(recorded.launch.code)
            report = finding(recorded, build_cache, self.checker, code)
            if report:
                return f"{recorded}: {report}"
        return ""
