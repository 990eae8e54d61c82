"""Rows summed by index in rising order: the gradient of an embedding, and of a projection of distinct words.

Shares are column ranges, so that no two threads add to the same element and the order of each sum is fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.handoff import announce, publisher
from capgpu.kernels.cpu.team import TEAM, Region

__all__ = ["embedding_gradient"]

#: Below this many elements one thread is faster than two.
WORTH_SHARING = 100_000


@compiled(allocates=False)
def _add_rows(index: int, count: int, drows: Any, rows: Any, out: Any) -> None:
    # whole cache lines a share
    width = drows.shape[1]
    lines = (width + 15) // 16
    left, right = lines * index // count * 16, min(width, lines * (index + 1) // count * 16)
    for k in range(out.shape[0]):
        out[k, left:right] = 0
    for m in range(rows.size):
        target, source = out[rows[m]], drows[m]
        for j in range(left, right):
            target[j] += source[j]


_publish_add_rows = publisher(_add_rows)


@compiled()
def _launch_add_rows(memory: int, ticket: int, count: int, arguments: Any) -> None:
    _publish_add_rows(memory, count, arguments)
    announce(memory, ticket)


ADD_ROWS = Region(_add_rows, _launch_add_rows)


def embedding_gradient(drows: Any, index: Any, count: int) -> Any:
    """Sum rows by index; see `capgpu.kernels.reference.embedding_gradient`."""
    drows = np.ascontiguousarray(drows)
    rows = np.ascontiguousarray(index, dtype=np.int64)
    out = np.empty((count, drows.shape[1]), dtype=drows.dtype)
    members = TEAM.size if drows.size + out.size >= WORTH_SHARING else 1
    TEAM.run(members, ADD_ROWS, drows, rows, out)
    return out
