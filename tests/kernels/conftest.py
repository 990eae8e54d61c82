"""What the tests of the host's kernels share."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from capgpu.kernels.cpu.thread_pool import ThreadPool


@pytest.fixture
def shared_by(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., ThreadPool]]:
    """Share every job, however small, among a number of threads."""
    from capgpu.kernels.cpu.thread_pool import ThreadPool
    from oracles.pools import MODULES

    pools = []

    def share(threads: int, alone: bool = False) -> ThreadPool:
        pool = ThreadPool(threads, patience=0.01)
        pools.append(pool)
        if alone:
            pool.close()
        for module in MODULES:
            for name, value in (("POOL", pool), ("WORTH_SHARING", 0)):
                if hasattr(module, name):
                    monkeypatch.setattr(module, name, value)
        return pool

    yield share
    for pool in pools:
        pool.close()
