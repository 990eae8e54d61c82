"""Rows taken by index, and summed in rising order, by index or all: an embedding, its gradient, and that of biases.

A task owns a range of rows of the table, or of columns where all rows are summed: no two add to the same element,
and the order of each sum is fixed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.contract import RowGroups
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.task_memory import allocate, release
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous

__all__ = ["add_rows", "column_sums", "embedding_gradient", "scatter_rows", "take_rows"]

#: Below this many elements one thread is faster than two.
WORTH_SHARING = 100_000


@parallel_job()
def _add_rows(index: int, count: int, drows: Any, rows: Any, out: Any) -> None:
    size = out.shape[0]
    scratch = allocate(2 * size + 1 + rows.size, rows)
    starts, next_position, order = scratch[: size + 1], scratch[size + 1 : 2 * size + 1], scratch[2 * size + 1 :]
    # rows of one index follow each other, in rising order: each sum is made while it is in the cache
    for k in range(starts.size):
        starts[k] = 0
    for m in range(rows.size):
        starts[rows[m] + 1] += 1
    for k in range(out.shape[0]):
        next_position[k] = starts[k]
        starts[k + 1] += starts[k]
    for m in range(rows.size):
        order[next_position[rows[m]]] = m
        next_position[rows[m]] += 1
    _add_runs(index, count, drows, order, starts, out)
    release(scratch)


@compiled()
def _add_runs(index: int, count: int, drows: Any, order: Any, starts: Any, out: Any) -> None:
    # each task owns a range of the table's rows, for long runs of memory: it reads and writes as many rows as others
    work = order.size + out.shape[0]
    for k in range(out.shape[0]):
        work_before = k + starts[k]
        if work_before < work * index // count:
            continue
        if work_before >= work * (index + 1) // count:
            break
        target = out[k]
        if starts[k] == starts[k + 1]:
            for j in range(target.size):
                target[j] = 0
            continue
        source = drows[order[starts[k]]]
        for j in range(target.size):
            target[j] = source[j]
        for m in range(starts[k] + 1, starts[k + 1]):
            source = drows[order[m]]
            for j in range(target.size):
                target[j] += source[j]


@parallel_job()
def _sum_columns(index: int, count: int, rows: Any, out: Any) -> None:
    width = rows.shape[1]
    lines = (width + 15) // 16
    begin, end = lines * index // count * 16, min(width, lines * (index + 1) // count * 16)
    target = out[begin:end]
    for j in range(target.size):
        target[j] = 0
    for m in range(rows.shape[0]):
        source = rows[m, begin:end]
        for j in range(target.size):
            target[j] += source[j]


def column_sums(*matrices: Any) -> Any:
    """Sum the rows of a matrix; see `capgpu.kernels.reference.embedding.column_sums`."""
    out = np.empty(sum(matrix.shape[1] for matrix in matrices), dtype=matrices[0].dtype)
    first = 0
    for matrix in matrices:
        rows = contiguous(matrix)
        n_tasks = POOL.n_threads if rows.size >= WORTH_SHARING else 1
        POOL.run(n_tasks, _sum_columns, rows, out[first : first + rows.shape[1]])
        first += rows.shape[1]
    return out


@parallel_job()
def _take_rows(index: int, count: int, table: Any, rows: Any, out: Any) -> None:
    for k in range(rows.size * index // count, rows.size * (index + 1) // count):
        source, target = table[rows[k]], out[k]
        for j in range(target.size):
            target[j] = source[j]


def take_rows(table: Any, rows: Any) -> Any:
    """Take rows of a matrix; see `capgpu.kernels.reference.take_rows`."""
    table, rows = contiguous(table), contiguous(rows, dtype=np.int64)
    out = np.empty((rows.size, table.shape[1]), dtype=table.dtype)
    POOL.run(POOL.n_threads if out.size >= WORTH_SHARING else 1, _take_rows, table, rows, out)
    return out


def scatter_rows(rows: Any, index: Any, count: int) -> Any:
    """Spread rows over a table of zeros; see `capgpu.kernels.reference.scatter_rows`."""
    return embedding_gradient(rows, index, count)


def add_rows(table: Any, rows: Any, index: Any) -> Any:
    """Add rows to rows of a table; see `capgpu.kernels.reference.add_rows`."""
    table[index] += rows
    return table


def embedding_gradient(drows: Any, index: Any, count: int, groups: RowGroups | None = None) -> Any:
    """Sum rows by index; see `capgpu.kernels.reference.embedding_gradient`."""
    drows = contiguous(drows)
    rows = contiguous(index, dtype=np.int64)
    out = np.empty((count, drows.shape[1]), dtype=drows.dtype)
    n_tasks = POOL.n_threads if drows.size + out.size >= WORTH_SHARING else 1
    POOL.run(n_tasks, _add_rows, drows, rows, out)
    return out
