"""How a packed recurrence is shared among threads: each owns every count-th sequence, for all its steps.

A share never waits for another: the sequences of a batch do not meet in a recurrence. Interleaving the ranks gives
every share its part of each shrinking step.
"""

from __future__ import annotations

from capgpu.kernels.cpu.compile import compiled

__all__ = ["owned"]


@compiled(inline=True)
def owned(index: int, count: int, rows: int) -> int:
    """Return how many of the ranks 0..rows-1 share `index` of `count` owns."""
    return (rows - index + count - 1) // count if rows > index else 0
