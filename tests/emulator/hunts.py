"""Hunts for errors in recorded launches, as data: so that all of a test session's can run at once, on every core."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from emulator import build
from emulator.mutations import ADDRESS, THREAD, Mutation, finding
from emulator.recording import Recording

SANITIZERS = {ADDRESS: build.ADDRESS, THREAD: build.THREAD}


@dataclass(frozen=True)
class Hunt:
    """A hunter set on the launches of a kernel.

    Attributes
    ----------
    dtype, variant : str
        Which kernel; `variant` may be its name alone, for the first of its variants.
    hunter : str
        One of `emulator.mutations`.
    mutation : Mutation, optional
        What is broken about the kernel before.
    """

    dtype: str
    variant: str
    hunter: str
    mutation: Mutation | None = None

    def __str__(self) -> str:
        if self.mutation is None:
            return f"{self.variant}-{self.dtype}-{self.hunter}"
        return f"{self.mutation}-{self.hunter}"

    def missing(self) -> str | None:
        """Say what this machine lacks for it; None where nothing."""
        return build.missing_sanitizer(SANITIZERS[self.hunter]) if self.hunter in SANITIZERS else build.missing()

    def run(self, recordings: Sequence[Recording], workshop: build.Workshop) -> str:
        """Return the first finding, empty where no launch has one."""
        for recorded in recordings:
            code = None if self.mutation is None else self.mutation.apply(recorded.launch.code)
            found = finding(recorded, workshop, self.hunter, code)
            if found:
                return f"{recorded}: {found}"
        return ""
