"""One step of decoding on the host: the recurrence of one step, then the vocabulary projection.

Where several captions go on from one state, as in a beam, the state is multiplied by the recurrent weights once; what
each caption adds is the input product of its own word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.contract import Precision
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.gemm import matmul
from capgpu.kernels.cpu.job_slot import run_job
from capgpu.kernels.cpu.lstm import activate_lstm
from capgpu.kernels.cpu.rnn import activate_rnn
from capgpu.kernels.cpu.task_code import describe_job
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous

__all__ = ["decode_step"]

#: Below this many recurrent sums one thread is faster than two.
WORTH_SHARING = 20_000


@compiled(allocates=False)
def _copy(source: Any, target: Any) -> None:
    """Copy a row. An assignment to a slice takes Numba seconds: it compiles broadcasting, and text for its errors."""
    for j in range(target.size):
        target[j] = source[j]


@compiled()
def _activate(
    index: int, count: int, sums: Any, parents: Any, projected: Any, rows: Any, c: Any, next_c: Any, next_h: Any
) -> None:
    """Make the states of a share of the captions from the recurrent sums of their parents."""
    captions, size = next_h.shape
    # one allocation: what a task holds when it raises is never freed
    scratch = np.empty((2, sums.shape[1]), sums.dtype)
    gates, nothing = scratch[0], scratch[1]
    nothing[:] = 0  # the input products have their bias
    for n in range(captions * index // count, captions * (index + 1) // count):
        if sums.shape[1] == size:
            _copy(sums[parents[n]], next_h[n])
            activate_rnn(next_h[n], projected[rows[n]], nothing)
        else:
            _copy(sums[parents[n]], gates)
            activate_lstm(gates, projected[rows[n]], nothing, c[parents[n]], next_c[n], next_h[n], 0, size)


_describe_activate = describe_job(_activate)


@compiled()
def _launch_activate(slot: int, n_tasks: int, arguments: Any) -> bool:
    return run_job(slot, n_tasks, _describe_activate(arguments))


def decode_step(
    projected: Any,
    rows: Any,
    h: Any,
    c: Any,
    Wh: Any,
    W_vocab: Any,
    b_vocab: Any,
    parents: Any = None,
    *,
    precision: Precision = "float32",
) -> tuple[Any, Any, Any]:
    """Advance all sequences by one word; see `capgpu.kernels.reference.decode_step`."""
    captions = h.shape[0] if parents is None else parents.shape[0]
    if parents is None:
        parents = np.arange(captions)
    else:
        distinct, parents = np.unique(parents, return_inverse=True)
        h, c = h[distinct], None if c is None else c[distinct]
    projected = contiguous(projected)
    rows = np.arange(captions) if rows is None else contiguous(rows, dtype=np.int64)
    sums = matmul(h, Wh, precision=precision)
    next_h = np.empty((captions, h.shape[1]), h.dtype)
    cells = np.empty((0, 0), h.dtype) if c is None else contiguous(c)
    next_c = np.empty((captions if c is not None else 0, h.shape[1]), h.dtype)
    n_tasks = POOL.n_threads if captions * Wh.shape[1] >= WORTH_SHARING else 1
    POOL.run(n_tasks, _launch_activate, sums, parents, projected, rows, cells, next_c, next_h)
    return matmul(next_h, W_vocab, b_vocab, precision=precision), next_h, None if c is None else next_c
