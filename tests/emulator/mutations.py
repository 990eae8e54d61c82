"""Broken copies of kernels, and what catches them.

A kernel's proof is worth what it can refuse: every mutation has to be caught by the hunter that it names.
"""

from __future__ import annotations

from dataclasses import dataclass

from emulator import build
from emulator.recording import Recording, run_again
from emulator.runner import Order

#: Orders of threads and blocks that have no reason to suit a kernel.
ADVERSARIAL = (
    Order("breadth_first"),
    Order("reversed"),
    Order("depth_first"),
    Order("random", 1),
    Order("random", 2),
    Order("random", 3),
)

RESULTS, FAULT, ADDRESS, THREAD = "results", "fault", "address", "thread"


@dataclass(frozen=True)
class Mutation:
    """A change to a source that makes it wrong.

    Attributes
    ----------
    kernel : str
        The kernel whose launches it spoils.
    name : str
        What is broken.
    before, after : str
        Text of the source, and what takes its place.
    caught_by : str
        ``results`` (other bits, in some order, or with poisoned memory), ``fault`` (the emulator's own checks),
        ``address`` (AddressSanitizer and UBSan) or ``thread`` (ThreadSanitizer).
    """

    kernel: str
    name: str
    before: str
    after: str
    caught_by: str
    times: int = 1  # how often the text is in the source
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.kernel}: {self.name}"

    def apply(self, code: str) -> str:
        """Return the broken source; raise where the text to be replaced is not there as often as it should."""
        found = code.count(self.before)
        if found != self.times:
            raise ValueError(f"{self}: {self.before!r} is {found} times in the source, wanted {self.times}")
        return code.replace(self.before, self.after)


def finding(recorded: Recording, workshop: build.Workshop, hunter: str, code: str | None = None) -> str:
    """Say what a hunter finds in a recorded launch.

    Parameters
    ----------
    recorded : Recording
        The launch, with the results that it should have.
    workshop : Workshop
        Compiles.
    hunter : str
        One of the four.
    code : str, optional
        The source to run in place of the recorded one.

    Returns
    -------
    str
        Empty where nothing is found.
    """
    if hunter == THREAD:
        return run_again(recorded, workshop, build.THREAD, (Order("random", 1),), code).finding
    if hunter == ADDRESS:
        return run_again(recorded, workshop, build.ADDRESS, (Order("reversed"),), code).finding
    outcome = run_again(recorded, workshop, build.PLAIN, ADVERSARIAL, code)
    if hunter == FAULT or outcome.finding:
        return outcome.finding
    wrong = [
        f"{order.name} {order.seed}"
        for order, result in zip(ADVERSARIAL, outcome.results, strict=True)
        if result != recorded.result
    ]
    return f"other results in the orders {', '.join(wrong)}" if wrong else ""
