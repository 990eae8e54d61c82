"""Operations with results in a workspace, so that a whole pass can be captured in a CUDA graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from capgpu.kernels.cuda.array_checks import allocating_by
from capgpu.kernels.cuda.embedding import SLICE
from capgpu.kernels.cuda.workspace import Workspace, using

__all__ = ["holding_results"]


@contextmanager
def holding_results(space: Workspace, capacities: Mapping[int, int]) -> Iterator[None]:
    """Allocate the results of this thread's operations in a workspace, inside a ``with`` block.

    The same sequence of operations gets the same memory in each block.

    Parameters
    ----------
    space : Workspace
        Returned by `workspace` inside the block.
    capacities : mapping of int to int
        Rows to allocate, by number of rows: later blocks may have more.
    """
    uses: Counter[str] = Counter()

    def take(shape: tuple[int, ...], dtype: Any, purpose: str) -> Any:
        uses[purpose] += 1
        return space.take(f"{purpose} ({uses[purpose]})", shape, dtype)

    slices = {-(-rows // SLICE): -(-capacity // SLICE) for rows, capacity in capacities.items()}
    space.capacities = {**slices, **capacities}
    try:
        with using(space), allocating_by(take):
            yield
    finally:
        space.capacities = {}
