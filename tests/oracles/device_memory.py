"""A device with little memory left, real or not."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

UNIT = 512  # CuPy's pool hands out multiples of this


@contextmanager
def little_memory(cupy: Any, available: int) -> Iterator[None]:
    """Leave `available` bytes for new arrays inside a ``with`` block.

    A limit alone does not do that on a device: CuPy's pool limits what it takes from CUDA, and hands out what it holds
    without using it whatever the limit. What it cannot give back to CUDA, since it lies between blocks in use, is
    therefore taken first.

    Parameters
    ----------
    cupy : module
        CuPy.
    available : int
        Bytes; the pool counts whole multiples of 512.
    """
    pool = cupy.get_default_memory_pool()
    previous = pool.get_limit()
    gc.collect()
    pool.free_all_blocks()
    pool.set_limit(max(pool.total_bytes(), 1))
    allocation, size = [], pool.free_bytes() // UNIT * UNIT
    while size:
        try:
            allocation.append(pool.malloc(size))
        except cupy.cuda.memory.OutOfMemoryError:
            size = size // 2 // UNIT * UNIT
        else:
            size = min(size, pool.free_bytes() // UNIT * UNIT)
    pool.set_limit(pool.total_bytes() + available)
    try:
        yield
    finally:
        pool.set_limit(previous)
