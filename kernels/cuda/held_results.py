"""Operations whose results stay in a workspace: so that a whole pass can be captured in a CUDA graph."""

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
    """Keep the results of this thread's operations in a workspace, inside a ``with`` block.

    The same operations in the same order get the same memory at each use.

    Parameters
    ----------
    space : Workspace
        What `workspace` returns meanwhile.
    capacities : mapping of int to int
        For a number of rows, how many rows to make room for: later blocks may have more.
    """
    uses: Counter[str] = Counter()

    def take(shape: tuple[int, ...], dtype: Any, what: str) -> Any:
        uses[what] += 1
        return space.take(f"{what} ({uses[what]})", shape, dtype)

    slices = {-(-rows // SLICE): -(-room // SLICE) for rows, room in capacities.items()}
    space.capacities = {**slices, **capacities}
    try:
        with using(space), allocating_by(take):
            yield
    finally:
        space.capacities = {}
