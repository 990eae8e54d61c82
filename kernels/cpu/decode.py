"""One step of decoding on the host: the recurrence of one step, then the vocabulary projection.

Where several captions go on from one state, as in a beam, the state is multiplied by the recurrent weights once; what
each caption adds is the input product of its own word.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.contract import Precision
from capgpu.kernels.cpu.cells import GATES_WITH_STATE, activate_cell
from capgpu.kernels.cpu.gemm import matmul
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.recurrence import ForwardRow
from capgpu.kernels.cpu.task_memory import allocate, release
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous

__all__ = ["decode_step", "next_states"]

#: Below this many recurrent sums one thread is faster than two.
WORTH_SHARING = 20_000


@parallel_job()
def _activate(
    index: int,
    count: int,
    n_gates: int,
    sums: Any,
    parents: Any,
    projected: Any,
    rows: Any,
    bias: Any,
    c: Any,
    next_c: Any,
    next_h: Any,
) -> None:
    """Make the states of a task's captions from the recurrent sums of their parents."""
    n_captions, size = next_h.shape
    gates = allocate(bias.size, sums)
    for n in range(n_captions * index // count, n_captions * (index + 1) // count):
        # of a cell without gates, the sums are made into the state where they lie
        source, target = sums[parents[n]], next_h[n] if n_gates == 1 else gates
        for j in range(source.size):
            target[j] = source[j]
        row = ForwardRow(target, projected[rows[n]], bias, c[parents[n]], next_c[n], next_h[n])
        activate_cell(n_gates, row, 0, size)
    release(gates)


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
    recurrent_bias: Any = None,
    precision: Precision = "float32",
) -> tuple[Any, Any, Any]:
    """Advance all sequences by one word; see `capgpu.kernels.reference.decode_step`."""
    captions, size = (h if parents is None else parents).shape[0], h.shape[1]
    if parents is None:
        parents = np.arange(captions)
    else:
        distinct, parents = np.unique(parents, return_inverse=True)
        h, c = h[distinct], None if c is None else c[distinct]
    projected = contiguous(projected)
    rows = np.arange(captions) if rows is None else contiguous(rows, dtype=np.int64)
    sums = matmul(h, Wh, precision=precision)
    # the input products have their biases
    bias = np.zeros(projected.shape[1], h.dtype)
    if recurrent_bias is not None:
        bias = np.concatenate([bias, recurrent_bias])
    next_h, next_c = next_states(
        Wh.shape[1] // size, sums, parents, projected, rows, bias, contiguous(h if c is None else c)
    )
    return matmul(next_h, W_vocab, b_vocab, precision=precision), next_h, None if c is None else next_c


def next_states(n_gates: int, sums: Any, parents: Any, projected: Any, rows: Any, bias: Any, c: Any) -> tuple[Any, Any]:
    """Make the states of captions from the recurrent sums of those that they go on from.

    Parameters
    ----------
    n_gates : int
        Of the cell.
    sums : numpy.ndarray, shape (P, n_gates * H)
        Recurrent sums.
    parents, rows : numpy.ndarray of int64, shape (N,)
        Row of `sums` and `c`, and of `projected`, for each caption.
    projected : numpy.ndarray, shape (U, n_gates * H)
        The input's part of the pre-activations.
    bias : numpy.ndarray
        The cell's biases.
    c : numpy.ndarray, shape (P, H)
        Cell states; of a cell without one, hidden states.

    Returns
    -------
    h, c : numpy.ndarray, shape (N, H)
        The states; of a cell without a state c, `c` is `h`.
    """
    next_h = np.empty((parents.size, c.shape[1]), c.dtype)
    next_c = np.empty_like(next_h) if n_gates in GATES_WITH_STATE else next_h
    n_tasks = POOL.n_threads if parents.size * projected.shape[1] >= WORTH_SHARING else 1
    POOL.run(n_tasks, _activate, n_gates, sums, parents, projected, rows, bias, c, next_c, next_h)
    return next_h, next_c
