"""Broken copies of kernels, and the checks that must detect them.

Every mutation must be detected by the checker that it names; otherwise the checks prove nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

from simulators.emulator import build
from simulators.emulator.recording import Recording, run_again
from simulators.emulator.runner import Order

#: Orders of threads and blocks that expose dependencies on the order.
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
        The kernel that the mutation breaks.
    name : str
        Description.
    before, after : str
        Text of the source, and its replacement.
    caught_by : str
        ``results`` (different bits in some order, or with poisoned memory), ``fault`` (the emulator's own checks),
        ``address`` (AddressSanitizer and UBSan) or ``thread`` (ThreadSanitizer).
    """

    kernel: str
    name: str
    before: str
    after: str
    caught_by: str
    times: int = 1  # number of occurrences of the text in the source
    dtype: str = "float32"

    def __str__(self) -> str:
        return f"{self.kernel}: {self.name}"

    def apply(self, code: str) -> str:
        """Return the broken source; raise if the text does not occur the expected number of times."""
        count = code.count(self.before)
        if count != self.times:
            raise ValueError(f"{self}: expected {self.before!r} {self.times} times in the source, got {count}")
        return code.replace(self.before, self.after)


def finding(recorded: Recording, build_cache: build.BuildCache, checker: str, code: str | None = None) -> str:
    """Return the report of a checker about a recorded launch.

    Parameters
    ----------
    recorded : Recording
        The launch, with its correct results.
    build_cache : BuildCache
        Compiles the kernel.
    checker : str
        One of the four checkers.
    code : str, optional
        Source to run instead of the recorded one.

    Returns
    -------
    str
        The report; empty if the checker finds nothing.
    """
    if checker == THREAD:
        return run_again(recorded, build_cache, build.THREAD, (Order("random", 1),), code).finding
    if checker == ADDRESS:
        return run_again(recorded, build_cache, build.ADDRESS, (Order("reversed"),), code).finding
    outcome = run_again(recorded, build_cache, build.PLAIN, ADVERSARIAL, code)
    if checker == FAULT or outcome.finding:
        return outcome.finding
    failing_orders = [
        f"{order.name} {order.seed}"
        for order, result in zip(ADVERSARIAL, outcome.results, strict=True)
        if result != recorded.result
    ]
    return f"other results in the orders {', '.join(failing_orders)}" if failing_orders else ""
