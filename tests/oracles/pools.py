"""Thread pools for tests of the host's kernels."""

from __future__ import annotations

import importlib
import pkgutil
import time

import capgpu.kernels.cpu
from capgpu.kernels.cpu.thread_pool import ThreadPool

__all__ = ["MODULES", "await_workers"]

#: The modules of the host's kernels.
MODULES = [
    importlib.import_module(f"capgpu.kernels.cpu.{found.name}")
    for found in pkgutil.iter_modules(capgpu.kernels.cpu.__path__)
]


def await_workers(pool: ThreadPool) -> None:
    """Start the workers of a pool and wait for them: earlier jobs would run on fewer threads."""
    pool._start_workers()
    while pool.serving < pool.n_threads - 1:
        time.sleep(1e-4)
