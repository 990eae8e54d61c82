"""The attention LSTM over packed sequences, and a step of decoding; mathematics: `capgpu.kernels.reference.attention`.

Tasks share two kinds of work. As in `capgpu.kernels.cpu.recurrence`, each owns a range of hidden units, whose columns
of ``Wh`` and ``Wattn`` it packs once a pass: products and the LSTM's pointwise mathematics. And each owns every
`count`-th caption: its scores, softmax and context, so that a picture's projected cells (L, H) are read while they are
in the cache, and what is added up for a caption is added in one order, whatever the number of threads. Barriers between
the two are at each step::

    forward                                          backward, from the last step on
    captions: scores, weights w, context z           units: the LSTM's gradients da
    units:    h Wh                                       barrier
        barrier                                      units: dh = da Wh^T, dz = da Wattn^T
    units:    + z Wattn, LSTM, h, h of the next row      barrier
        barrier                                      captions: dw, ds; dh += sum_l ds_l A_l / sqrt(H)
                                                         barrier

Saved: what the LSTM saves, the state before each step, weights and contexts. The backward pass keeps ds and dz of all
steps: the gradient of a picture's cells, dA_l = sum_t w_tl dz_t + ds_tl h_t, is made after the last step, and written
once.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from capgpu.kernels.contract import AttentionStates, Precision
from capgpu.kernels.cpu.cells import LSTM_GATES
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.decode import next_states
from capgpu.kernels.cpu.fast_math import multiply_add
from capgpu.kernels.cpu.gemm import WORTH_SHARING, matmul, product_into
from capgpu.kernels.cpu.job_slot import barrier
from capgpu.kernels.cpu.lstm import activate_lstm, differentiate_lstm
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.recurrence import BackwardRow, ForwardRow
from capgpu.kernels.cpu.recurrent_gemm import (
    Products,
    add_product_with_columns,
    pack_columns,
    packed_size,
    product_with_columns,
    products,
    scratch_size,
)
from capgpu.kernels.cpu.simd_pack import whole_vectors
from capgpu.kernels.cpu.softmax import exponentiate, greatest
from capgpu.kernels.cpu.task_memory import allocate, release
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous, scratch

__all__ = ["attention_decode_step", "attention_lstm_backward", "attention_lstm_forward"]

#: Below this many elements of projected cells one thread is faster than two.
WORTH_SHARING_CELLS = 100_000


@compiled(fastmath=frozenset({"reassoc"}))
def _dots(A: Any, x: Any, out: Any) -> None:
    """Write the products of each row of A (L, H) with x (H,)."""
    whole_vectors()
    # four rows at once, so that x is loaded once for all
    whole = A.shape[0] // 4 * 4
    for k in range(0, whole, 4):
        a0, a1, a2, a3 = A[k], A[k + 1], A[k + 2], A[k + 3]
        s0 = s1 = s2 = s3 = x.dtype.type(0)
        for j in range(x.size):
            s0 += a0[j] * x[j]
            s1 += a1[j] * x[j]
            s2 += a2[j] * x[j]
            s3 += a3[j] * x[j]
        out[k], out[k + 1], out[k + 2], out[k + 3] = s0, s1, s2, s3
    for k in range(whole, A.shape[0]):
        a0 = A[k]
        s0 = x.dtype.type(0)
        for j in range(x.size):
            s0 += a0[j] * x[j]
        out[k] = s0


@compiled()
def _add_weighted_sum(weights: Any, A: Any, out: Any) -> None:
    """Add the rows of A (L, H) with their weights (L,) to `out` (H,)."""
    whole_vectors()
    whole = A.shape[0] // 4 * 4
    for k in range(0, whole, 4):
        a0, a1, a2, a3 = A[k], A[k + 1], A[k + 2], A[k + 3]
        w0, w1, w2, w3 = weights[k], weights[k + 1], weights[k + 2], weights[k + 3]
        for j in range(out.size):
            total = multiply_add(w1, a1[j], multiply_add(w0, a0[j], out[j]))
            out[j] = multiply_add(w3, a3[j], multiply_add(w2, a2[j], total))
    for k in range(whole, A.shape[0]):
        a0, w0 = A[k], weights[k]
        for j in range(out.size):
            out[j] = multiply_add(w0, a0[j], out[j])


@compiled()
def _fill(row: Any, value: Any) -> None:
    for j in range(row.size):
        row[j] = value


@compiled()
def _attend(A: Any, h: Any, weights: Any, context: Any) -> None:
    """Write the weights (L,) that a state h gives to the cells A (L, H), and their weighted sum."""
    _dots(A, h, weights)
    scale = h.dtype.type(1 / math.sqrt(h.size))
    for k in range(weights.size):
        weights[k] *= scale
    total = exponentiate(weights, greatest(weights))
    for k in range(weights.size):
        weights[k] /= total
    _fill(context, h.dtype.type(0))
    _add_weighted_sum(weights, A, context)


@compiled()
def _attend_backward(A: Any, weights: Any, dcontext: Any, dscores: Any, dh: Any) -> None:
    """Write the gradient of the scores before they are divided by sqrt(H), and add that of the state."""
    _dots(A, dcontext, dscores)
    total = dscores.dtype.type(0)
    for k in range(weights.size):
        total += weights[k] * dscores[k]
    scale = dcontext.dtype.type(1 / math.sqrt(dcontext.size))
    for k in range(weights.size):
        dscores[k] = weights[k] * (dscores[k] - total) * scale
    _add_weighted_sum(dscores, A, dh)


class _Forward(NamedTuple):
    """Operands of the forward pass, all arrays contiguous."""

    multiply: Products
    projected: Any  # (U, 4H)
    rows: Any  # (M,): row of `projected` for each packed row
    bias: Any  # (4H,)
    A: Any  # (N, L, H)
    grids: Any  # (batch_sizes[0],): row of A for each caption
    Wh: Any  # (H, 4H)
    Wattn: Any  # (H, 4H)
    packed_h: Any  # memory of `PackedColumns`
    packed_attention: Any
    batch_sizes: Any  # (T,)
    hidden: Any  # (M, H)
    cells: Any  # (M, H)
    gates: Any  # (M, 4H)
    previous: Any  # (M, H)
    attention: Any  # (M, L)
    contexts: Any  # (M, H)


@parallel_job(barriers=True, operands=_Forward)
def _forward(index: int, count: int, slot: int, operands: _Forward) -> None:
    work = allocate(scratch_size(operands.multiply, operands.hidden.itemsize), operands.hidden)
    _forward_steps(index, count, slot, operands, work)
    release(work)


@compiled()
def _forward_steps(index: int, count: int, slot: int, operands: _Forward, work: Any) -> None:
    o = operands
    columns_h = pack_columns(o.multiply, o.Wh, False, LSTM_GATES, index, count, o.packed_h, work)
    columns_attention = pack_columns(o.multiply, o.Wattn, False, LSTM_GATES, index, count, o.packed_attention, work)
    begin, end = columns_h.begin, columns_h.end
    for rank in range(index, o.grids.size, count):
        _mean(o.A[o.grids[rank]], o.previous[rank])
    # Without it the first product could read initial states that other tasks have not written.
    if not barrier(slot, index, count, 1):
        return
    first_row = first_row_before = 0
    for step in range(o.batch_sizes.size):
        n_active = o.batch_sizes[step]
        last_row = first_row + n_active
        for rank in range(index, n_active, count):
            row = first_row + rank
            _attend(o.A[o.grids[rank]], o.previous[row], o.attention[row], o.contexts[row])
        sums = o.gates[first_row:last_row]
        product_with_columns(o.multiply, o.previous[first_row:last_row], columns_h, sums, work)
        # Without it the product could read contexts that other tasks have not written.
        if not barrier(slot, index, count, 2 * step + 2):
            return
        add_product_with_columns(o.multiply, o.contexts[first_row:last_row], columns_attention, sums, work)
        n_later = o.batch_sizes[step + 1] if step + 1 < o.batch_sizes.size else 0
        # the initial cell states are the initial hidden states
        c_before = o.previous if step == 0 else o.cells[first_row_before:first_row]
        for rank in range(n_active):
            row = first_row + rank
            projected = o.projected[o.rows[row]]
            activate_lstm(
                ForwardRow(o.gates[row], projected, o.bias, c_before[rank], o.cells[row], o.hidden[row]), begin, end
            )
            if rank < n_later:
                source, target = o.hidden[row, begin:end], o.previous[last_row + rank, begin:end]
                for j in range(target.size):
                    target[j] = source[j]
        # Without it the next step's attention and product could read units of h that other tasks have not written.
        if not barrier(slot, index, count, 2 * step + 3):
            return
        first_row_before, first_row = first_row, last_row


@compiled()
def _mean(A: Any, out: Any) -> None:
    """Write the mean of the rows of A (L, H)."""
    _fill(out, out.dtype.type(0))
    for k in range(A.shape[0]):
        cell = A[k]
        for j in range(out.size):
            out[j] += cell[j]
    scale = out.dtype.type(1 / A.shape[0])
    for j in range(out.size):
        out[j] *= scale


class _Backward(NamedTuple):
    """Operands of the backward pass, all arrays contiguous."""

    multiply: Products
    dhidden: Any  # (M, H)
    gates: Any  # (M, 4H)
    cells: Any  # (M, H)
    previous: Any  # (M, H)
    attention: Any  # (M, L)
    A: Any  # (N, L, H)
    grids: Any  # (batch_sizes[0],): row of A for each caption
    Wh: Any  # (H, 4H)
    Wattn: Any  # (H, 4H)
    packed_h: Any  # memory of `PackedColumns`
    packed_attention: Any
    batch_sizes: Any  # (T,)
    dprojected: Any  # (M, 4H)
    dcontexts: Any  # (M, H)
    dscores: Any  # (M, L)
    dh: Any  # (batch_sizes[0], H)
    dc: Any  # (batch_sizes[0], H)
    dA: Any  # (N, L, H): written for the captions in `grids`


@parallel_job(barriers=True, operands=_Backward)
def _backward(index: int, count: int, slot: int, operands: _Backward) -> None:
    work_size = scratch_size(operands.multiply, operands.dh.itemsize)
    memory = allocate(work_size + 2 * operands.dh.shape[1], operands.dh)
    _backward_steps(index, count, slot, operands, memory[:work_size], memory[work_size:])
    release(memory)


@compiled()
def _backward_steps(index: int, count: int, slot: int, operands: _Backward, work: Any, rows: Any) -> None:
    o = operands
    size = o.dh.shape[1]
    row_scratch, zeros = rows[:size], rows[size:]
    columns_h = pack_columns(o.multiply, o.Wh, True, 1, index, count, o.packed_h, work)
    columns_attention = pack_columns(o.multiply, o.Wattn, True, 1, index, count, o.packed_attention, work)
    begin, end = columns_h.begin, columns_h.end
    zero = zeros.dtype.type(0)
    _fill(zeros, zero)
    # dh and dc hold the gradients that later steps send; a caption that ends at this step has received none
    for rank in range(o.dh.shape[0]):
        _fill(o.dh[rank, begin:end], zero)
        _fill(o.dc[rank, begin:end], zero)
    last_row = o.dhidden.shape[0]
    for back in range(o.batch_sizes.size):
        step = o.batch_sizes.size - 1 - back
        n_active = o.batch_sizes[step]
        first_row = last_row - n_active
        c_before = o.previous if step == 0 else o.cells[first_row - o.batch_sizes[step - 1] : first_row]
        for rank in range(n_active):
            row = first_row + rank
            differentiate_lstm(
                BackwardRow(
                    o.dhidden[row],
                    zeros,
                    o.dh[rank],
                    o.dc[rank],
                    o.gates[row],
                    c_before[rank],
                    o.cells[row],
                    o.previous[row],
                    row_scratch,
                    o.dprojected[row],
                    o.dprojected[row],
                ),
                begin,
                end,
            )
        # Without it the products could read units of this step's gradients that other tasks have not written.
        if not barrier(slot, index, count, 3 * back + 1):
            return
        da = o.dprojected[first_row:last_row]
        product_with_columns(o.multiply, da, columns_h, o.dh[:n_active], work)
        product_with_columns(o.multiply, da, columns_attention, o.dcontexts[first_row:last_row], work)
        # Without it a caption's task could read units of dz, and write into dh, before other tasks have written theirs.
        if not barrier(slot, index, count, 3 * back + 2):
            return
        for rank in range(index, n_active, count):
            row = first_row + rank
            _attend_backward(o.A[o.grids[rank]], o.attention[row], o.dcontexts[row], o.dscores[row], o.dh[rank])
        # Without it the step before could read rows of dh that other tasks have not written.
        if not barrier(slot, index, count, 3 * back + 3):
            return
        last_row = first_row
    for rank in range(index, o.grids.size, count):
        dinitial = row_scratch
        scale = dinitial.dtype.type(1 / o.A.shape[1])
        for j in range(size):
            dinitial[j] = (o.dh[rank, j] + o.dc[rank, j]) * scale
        _cell_gradients(
            rank, o.batch_sizes, o.attention, o.dscores, o.dcontexts, o.previous, dinitial, o.dA[o.grids[rank]]
        )


@compiled()
def _cell_gradients(
    rank: int, batch_sizes: Any, attention: Any, dscores: Any, dcontexts: Any, previous: Any, dinitial: Any, dA: Any
) -> None:
    """Write the gradient of the cells (L, H) of one caption's picture."""
    whole_vectors()
    for k in range(dA.shape[0]):
        gradient = dA[k]
        for j in range(gradient.size):
            gradient[j] = dinitial[j]
        row = rank
        for step in range(batch_sizes.size):
            if batch_sizes[step] <= rank:
                break
            weight, dscore, dcontext, h = attention[row, k], dscores[row, k], dcontexts[row], previous[row]
            for j in range(gradient.size):
                gradient[j] = multiply_add(weight, dcontext[j], multiply_add(dscore, h[j], gradient[j]))
            row += batch_sizes[step]


def _grids(order: Any, batch_sizes: Any) -> Any:
    """Return the row of A for each caption of the first step."""
    alive = int(batch_sizes[0]) if batch_sizes.size else 0
    return np.arange(alive) if order is None else contiguous(order[:alive], dtype=np.int64)


def _packed(weights: Any, n_gates: int, precision: Precision, n_tasks: int) -> tuple[Any, Any]:
    """Return memory for the packed columns of op(Wh) and op(Wattn), which have the shape of `weights`."""
    depth, width = weights.shape
    elements = packed_size(depth, width // n_gates, n_gates, weights.itemsize, precision == "bf16", n_tasks)
    first, second = (scratch(f"{name} weights", (elements,), weights.dtype) for name in ("recurrent", "attention"))
    return first, second


def attention_lstm_forward(
    projected: Any,
    rows: Any,
    A: Any,
    Wh: Any,
    Wattn: Any,
    batch_sizes: Any,
    *,
    bias: Any = None,
    order: Any = None,
    precision: Precision = "float32",
) -> AttentionStates:
    """Run an attention LSTM over packed sequences; see `capgpu.kernels.reference.attention_lstm_forward`."""
    n_rows = (projected if rows is None else rows).shape[0]
    projected, A, Wh, Wattn, batch_sizes = map(contiguous, (projected, A, Wh, Wattn, batch_sizes))
    _, n_cells, size = A.shape
    rows = np.arange(n_rows) if rows is None else contiguous(rows, dtype=np.int64)
    grids = _grids(order, batch_sizes)
    n_tasks = POOL.n_threads if n_rows * size * size * 2 * LSTM_GATES >= WORTH_SHARING else 1
    packed_h, packed_attention = _packed(Wh, LSTM_GATES, precision, n_tasks)
    states = AttentionStates(
        *(np.empty((n_rows, width), A.dtype) for width in (size, size, LSTM_GATES * size, size, n_cells, size))
    )
    operands = _Forward(
        products(precision, grids.size, size),
        projected,
        rows,
        np.zeros(LSTM_GATES * size, A.dtype) if bias is None else contiguous(bias),
        A,
        grids,
        Wh,
        Wattn,
        packed_h,
        packed_attention,
        batch_sizes,
        *states,
    )
    POOL.run(n_tasks, _forward, *operands)
    return states


def attention_lstm_backward(
    dhidden: Any,
    gates: Any,
    cell: Any,
    previous: Any,
    attention: Any,
    A: Any,
    Wh: Any,
    Wattn: Any,
    batch_sizes: Any,
    *,
    order: Any = None,
    precision: Precision = "float32",
) -> tuple[Any, Any]:
    """Run the attention LSTM's recurrence backward; see `capgpu.kernels.reference.attention_lstm_backward`."""
    dhidden, gates, cell, previous, attention = map(contiguous, (dhidden, gates, cell, previous, attention))
    A, Wh, Wattn, batch_sizes = map(contiguous, (A, Wh, Wattn, batch_sizes))
    (n_rows, size), n_cells, dtype = dhidden.shape, A.shape[1], A.dtype
    grids = _grids(order, batch_sizes)
    n_tasks = POOL.n_threads if n_rows * size * size * 2 * LSTM_GATES >= WORTH_SHARING else 1
    packed_h, packed_attention = _packed(Wh.T, 1, precision, n_tasks)
    dprojected, dA = np.empty((n_rows, LSTM_GATES * size), dtype), np.empty_like(A)
    if order is not None:
        dA[order[grids.size :]] = 0
    operands = _Backward(
        products(precision, grids.size, LSTM_GATES * size),
        dhidden,
        gates,
        cell,
        previous,
        attention,
        A,
        grids,
        Wh,
        Wattn,
        packed_h,
        packed_attention,
        batch_sizes,
        dprojected,
        scratch("gradients of contexts", (n_rows, size), dtype),
        scratch("gradients of scores", (n_rows, n_cells), dtype),
        np.empty((grids.size, size), dtype),
        np.empty((grids.size, size), dtype),
        dA,
    )
    POOL.run(n_tasks, _backward, *operands)
    return dprojected, dA


@parallel_job()
def _attend_all(index: int, count: int, A: Any, pictures: Any, h: Any, attention: Any, contexts: Any) -> None:
    """Compute weights and contexts of a task's states."""
    for n in range(h.shape[0] * index // count, h.shape[0] * (index + 1) // count):
        _attend(A[pictures[n]], h[n], attention[n], contexts[n])


def attention_decode_step(
    projected: Any,
    rows: Any,
    h: Any,
    c: Any,
    A: Any,
    pictures: Any,
    Wh: Any,
    Wattn: Any,
    W_vocab: Any,
    b_vocab: Any,
    parents: Any = None,
    *,
    precision: Precision = "float32",
) -> tuple[Any, Any, Any, Any]:
    """Advance all sequences by one word; see `capgpu.kernels.reference.attention_decode_step`."""
    pictures = np.arange(h.shape[0]) if pictures is None else pictures
    captions = h.shape[0] if parents is None else parents.shape[0]
    if parents is None:
        parents = np.arange(captions)
    else:
        distinct, parents = np.unique(parents, return_inverse=True)
        h, c, pictures = h[distinct], c[distinct], pictures[distinct]
    projected, A, h, c = map(contiguous, (projected, A, h, c))
    rows = np.arange(captions) if rows is None else contiguous(rows, dtype=np.int64)
    pictures = contiguous(pictures, dtype=np.int64)
    attention, contexts = np.empty((h.shape[0], A.shape[1]), h.dtype), np.empty_like(h)
    n_tasks = POOL.n_threads if h.size * A.shape[1] >= WORTH_SHARING_CELLS else 1
    POOL.run(n_tasks, _attend_all, A, pictures, h, attention, contexts)
    sums = matmul(h, Wh, precision=precision)
    product_into(sums, contexts, contiguous(Wattn), accumulate=True, precision=precision)
    # the input products have their biases
    bias = np.zeros(LSTM_GATES * h.shape[1], h.dtype)
    next_h, next_c = next_states(LSTM_GATES, sums, parents, projected, rows, bias, c)
    return matmul(next_h, W_vocab, b_vocab, precision=precision), next_h, next_c, attention[parents]
