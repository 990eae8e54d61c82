"""Parallel kernels: one decorator makes a task into what `capgpu.kernels.cpu.thread_pool.ThreadPool.run` runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from capgpu.kernels.cpu.compile import compiled, named_like
from capgpu.kernels.cpu.job_slot import run_job
from capgpu.kernels.cpu.task_code import describe_job

__all__ = ["Job", "parallel_job"]

#: A parallel kernel, ``job(slot, n_tasks, operands)``: runs all tasks, and returns whether one failed.
Job = Callable[[int, int, Any], bool]


def parallel_job(
    *, barriers: bool = False, operands: type[tuple[Any, ...]] | None = None, allocates: bool = False
) -> Callable[[Callable[..., None]], Job]:
    """Compile a task, and the code that runs it on the thread pool.

    Parameters
    ----------
    barriers : bool
        Whether tasks call `capgpu.kernels.cpu.job_slot.barrier`.
    operands : type, optional
        A class of named tuples. The task takes one of it, and `ThreadPool.run` its fields: a plain tuple is
        dispatched in a microsecond, a named one in ten.
    allocates : bool
        As of `capgpu.kernels.cpu.compile.compiled`.

    Returns
    -------
    callable
        The decorator of the task, ``task(index, count, *operands)``, with barriers ``task(index, count, slot,
        *operands)``: task `index` of `count`. It must give the same result for every count and, unless it has
        barriers, in any order of its tasks. The only exception that it may raise is MemoryError. Arrays that it holds
        then are never freed: it makes them all in one allocation. A task with barriers ends when `barrier` returns
        False.

    Examples
    --------
    >>> @parallel_job()
    ... def _negate(index, count, values, out):
    ...     for k in range(values.size * index // count, values.size * (index + 1) // count):
    ...         out[k] = -values[k]
    >>> POOL.run(POOL.n_threads, _negate, values, out)
    """

    def decorate(task: Callable[..., None]) -> Job:
        describe = describe_job(compiled(allocates=allocates)(task), barriers=barriers, operands=operands)

        # one for each task: compiled code that took the task as an argument could not be kept on disk
        def launch(slot: int, n_tasks: int, arguments: Any) -> bool:
            return run_job(slot, n_tasks, describe(arguments))

        return compiled()(named_like(task, launch))

    return decorate
