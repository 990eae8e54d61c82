"""The recurrence of a cell over packed sequences, forward and backward: one skeleton for every cell.

A cell's file (lstm.py, rnn.py, gru.py) holds its pointwise mathematics, for one row of one step, and describes it by a
`Cell`.

Layout. Row-major; packed rows are time-major: step t owns batch_sizes[t] of the M rows, row r of a step continues row
r of the step before. The gates of a row lie one after the other along an axis of n_gates * H; where they are saved,
more may follow them (n_saved * H).

Each task owns a range of hidden units, for all steps, and packs its columns of ``Wh`` once a pass; each step is one
product of the rows still active with the packed columns, then one sweep of the cell over these rows while they are in
the cache, then a barrier. Saved for the backward pass: hidden states, and for cells that have them activated gates and
cell states; everything else is computed again. The backward pass writes the gradients of the pre-activations (packed)
and carries dh through Wh-transposed; the gradients of weights and inputs are products over all steps, made by the
caller.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from capgpu.kernels.cells import CellShape, RecurrenceBackward, RecurrenceForward, RecurrenceGradients
from capgpu.kernels.contract import Precision, States
from capgpu.kernels.cpu.compile import compiled, named_like
from capgpu.kernels.cpu.gemm import WORTH_SHARING
from capgpu.kernels.cpu.initial_states import in_callers_order, initial_states
from capgpu.kernels.cpu.job_slot import barrier
from capgpu.kernels.cpu.parallel_job import Job, parallel_job
from capgpu.kernels.cpu.recurrent_gemm import (
    Products,
    pack_columns,
    packed_size,
    product_with_columns,
    products,
    scratch_size,
)
from capgpu.kernels.cpu.simd_pack import LONG, whole_vectors
from capgpu.kernels.cpu.task_memory import allocate, release
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous, scratch

__all__ = [
    "BackwardRow",
    "Cell",
    "ForwardRow",
    "for_any_length",
    "operations",
]


class ForwardRow(NamedTuple):
    """One row of a step, forward. All arrays have one axis.

    Attributes
    ----------
    sums : array, n_saved * H
        ``h_before Wh``; a cell that saves its gates replaces them by the activated ones. Otherwise this is `h`.
    projected : array, n_gates * H
        The input's part of the pre-activations.
    bias : array, n_biases * H
        The biases.
    c_before, c : array, H
        The cell state before and after the step; of a cell without one, the hidden state.
    h : array, H
        Written: the hidden state.
    """

    sums: Any
    projected: Any
    bias: Any
    c_before: Any
    c: Any
    h: Any


class BackwardRow(NamedTuple):
    """One row of a step, backward. All arrays have one axis.

    Attributes
    ----------
    dh_output, dc_output : array, H
        Gradients of the row's states in the loss.
    dh_later : array, H
        Gradient of h that the next step sends through the product; may be overwritten.
    dc : array, H
        That of c, or what it sends of h beside the product; replaced by what the step before receives.
    gates : array, n_saved * H
        Saved: activated gates; of a cell that does not save them, h.
    c_before, c : array, H
        Saved: the cell state before and after the step; meaningless for a cell without one.
    h : array, H
        Saved: of a cell without a cell state, the hidden state before the step, or, where no gates are saved, after it.
    scratch : array, H
        Free for any use.
    da : array, n_gates * H
        Written: gradients of the recurrent part of the pre-activations, ``h_before Wh``.
    da_input : array, n_gates * H
        Written: those of the input's part; the same array for a cell that adds the parts.
    """

    dh_output: Any
    dc_output: Any
    dh_later: Any
    dc: Any
    gates: Any
    c_before: Any
    c: Any
    h: Any
    scratch: Any
    da: Any
    da_input: Any


class Cell(NamedTuple):
    """What distinguishes the recurrence of a cell from others'.

    Attributes
    ----------
    shape : CellShape
        Its gates, biases and saved numbers: `n_saved` is at least `n_gates`, or 0.
    carries_gradient : bool
        Whether a gradient is carried backward beside that through the product: that of c, or of h.
    activate : compiled function
        ``activate(row, begin, end)``: units begin..end-1 of a `ForwardRow`.
    differentiate : compiled function
        ``differentiate(row, begin, end)``: units begin..end-1 of a `BackwardRow`.
    """

    shape: CellShape
    carries_gradient: bool
    activate: Callable[[ForwardRow, int, int], None]
    differentiate: Callable[[BackwardRow, int, int], None]


def for_any_length(function: Callable[..., None]) -> Callable[..., None]:
    """Compile a cell's function of one row: loops in the widest vectors where the range of units is worth them.

    Parameters
    ----------
    function : callable
        ``function(row, begin, end)``, at the top level of a module.

    Returns
    -------
    compiled function
        The same, as `Cell` takes it.
    """
    loops = compiled()(function)

    def short(row: Any, begin: int, end: int) -> None:
        loops(row, begin, end)

    def long(row: Any, begin: int, end: int) -> None:
        whole_vectors()
        loops(row, begin, end)

    in_short_vectors = compiled()(named_like(function, short, f"{function.__name__}_short"))
    in_whole_vectors = compiled()(named_like(function, long, f"{function.__name__}_long"))

    def choose(row: Any, begin: int, end: int) -> None:
        if end - begin < LONG:
            in_short_vectors(row, begin, end)
        else:
            in_whole_vectors(row, begin, end)

    return compiled()(named_like(function, choose, f"{function.__name__}_any"))


class _Forward(NamedTuple):
    """Operands of a forward pass, all arrays contiguous."""

    multiply: Products
    projected: Any  # (U, n_gates H)
    rows: Any  # (M,): row of `projected` for each packed row
    bias: Any  # (n_biases H,)
    h0: Any  # (N, H)
    c0: Any  # (N, H); without a state h0
    Wh: Any  # (H, n_gates H)
    packed: Any  # memory of `PackedColumns`
    batch_sizes: Any  # (T,)
    hidden: Any  # (M, H)
    cells: Any  # (M, H); without a state `hidden`
    gates: Any  # (M, n_saved H); `hidden` where they are not saved
    previous: Any  # (M, H): hidden state before each step


def _forward_job(cell: Cell) -> Job:
    """Return the parallel kernel of a cell's forward pass, which takes `_Forward`."""
    n_gates, activate = cell.shape.n_gates, cell.activate

    def forward(index: int, count: int, slot: int, operands: _Forward) -> None:
        multiply, projected, rows, bias, h0, c0, Wh, packed, batch_sizes, hidden, cells, gates, previous = operands
        work = allocate(scratch_size(multiply, h0.itemsize), h0)
        columns = pack_columns(multiply, Wh, False, n_gates, index, count, packed, work)
        begin, end = columns.begin, columns.end
        first_row = first_row_before = 0
        for step in range(batch_sizes.size):
            n_active = batch_sizes[step]
            last_row = first_row + n_active
            h_before = h0 if step == 0 else hidden[first_row_before:first_row]
            c_before = c0 if step == 0 else cells[first_row_before:first_row]
            product_with_columns(multiply, h_before[:n_active], columns, gates[first_row:last_row], work)
            for rank in range(n_active):
                row = first_row + rank
                source, target = h_before[rank, begin:end], previous[row, begin:end]
                for j in range(target.size):
                    target[j] = source[j]
                activate(
                    ForwardRow(gates[row], projected[rows[row]], bias, c_before[rank], cells[row], hidden[row]),
                    begin,
                    end,
                )
            # Without it the next step's product could read units of this step's h that other tasks have not written.
            if not barrier(slot, index, count, step + 1):
                break
            first_row_before, first_row = first_row, last_row
        release(work)

    return parallel_job(barriers=True, operands=_Forward)(named_like(cell.activate, forward, "_forward"))


class _Backward(NamedTuple):
    """Operands of a backward pass, all arrays contiguous."""

    multiply: Products
    dhidden: Any  # (M, H)
    dcell: Any  # (M, H), or (0, H) for zeros
    gates: Any  # (M, n_saved H); `hidden` where they are not saved
    cells: Any  # (M, H); without a state `hidden`
    c0: Any  # (N, H); without a state `dh`
    hidden: Any  # (M, H)
    Wh: Any  # (H, n_gates H)
    packed: Any  # memory of `PackedColumns`
    batch_sizes: Any  # (T,)
    drecurrent: Any  # (M, n_gates H)
    dprojected: Any  # (M, n_gates H); `drecurrent` where they do not differ
    dh: Any  # (N, H)
    dc: Any  # (N, H); `dh` where nothing is carried


def _backward_job(cell: Cell) -> Job:
    """Return the parallel kernel of a cell's backward pass, which takes `_Backward`."""
    differentiate = cell.differentiate

    def backward(index: int, count: int, slot: int, operands: _Backward) -> None:
        multiply, dhidden, dcell, gates, cells, c0, hidden, Wh, packed, batch_sizes = operands[:10]
        drecurrent, dprojected, dh, dc = operands[10:]
        size = dh.shape[1]
        work_size = scratch_size(multiply, dh.itemsize)
        memory = allocate(work_size + 2 * size, dh)
        work, row_scratch = memory[:work_size], memory[work_size : work_size + size]
        zeros = memory[work_size + size :]
        columns = pack_columns(multiply, Wh, True, 1, index, count, packed, work)
        begin, end = columns.begin, columns.end
        _set_to_zero(zeros, begin, end)
        # dh and dc hold the gradients that later steps send; a sequence that ends at this step has received none
        for rank in range(dh.shape[0]):
            _set_to_zero(dh[rank], begin, end)
            _set_to_zero(dc[rank], begin, end)
        last_row = dhidden.shape[0]
        for back in range(batch_sizes.size):
            step = batch_sizes.size - 1 - back
            n_active = batch_sizes[step]
            first_row = last_row - n_active
            c_before = c0 if step == 0 else cells[first_row - batch_sizes[step - 1] : first_row]
            for rank in range(n_active):
                row = first_row + rank
                differentiate(
                    BackwardRow(
                        dhidden[row],
                        dcell[row] if dcell.shape[0] > 0 else zeros,
                        dh[rank],
                        dc[rank],
                        gates[row],
                        c_before[rank],
                        cells[row],
                        hidden[row],
                        row_scratch,
                        drecurrent[row],
                        dprojected[row],
                    ),
                    begin,
                    end,
                )
            # Without it the product could read units of this step's gradients that other tasks have not written.
            if not barrier(slot, index, count, back + 1):
                break
            product_with_columns(multiply, drecurrent[first_row:last_row], columns, dh[:n_active], work)
            last_row = first_row
        release(memory)

    return parallel_job(barriers=True, operands=_Backward)(named_like(cell.differentiate, backward, "_backward"))


@compiled()
def _set_to_zero(row: Any, begin: int, end: int) -> None:
    part = row[begin:end]
    for j in range(part.size):
        part[j] = 0


def operations(cell: Cell) -> tuple[RecurrenceForward, RecurrenceBackward]:
    """Return the two operations of a cell."""
    return partial(_run_forward, cell, _forward_job(cell)), partial(_run_backward, cell, _backward_job(cell))


def _run_forward(
    kind: Cell,
    job: Job,
    projected: Any,
    rows: Any,
    h0: Any,
    c0: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    bias: Any = None,
    h0_bias: Any = None,
    order: Any = None,
    precision: Precision = "float32",
) -> States:
    h0, n_rows = initial_states(h0, order, batch_sizes, h0_bias), (projected if rows is None else rows).shape[0]
    projected, Wh, batch_sizes = contiguous(projected), contiguous(Wh), contiguous(batch_sizes)
    (n_gates, n_biases, n_saved, has_state, _), size, dtype = kind.shape, h0.shape[1], h0.dtype
    c0 = _initial_cell_states(c0, order, batch_sizes, h0) if has_state else h0
    rows = np.arange(n_rows) if rows is None else contiguous(rows, dtype=np.int64)
    bias = np.zeros(n_biases * size, dtype) if bias is None else contiguous(bias)
    hidden, previous = np.empty((n_rows, size), dtype), np.empty((n_rows, size), dtype)
    cells = np.empty((n_rows, size), dtype) if has_state else None
    gates = np.empty((n_rows, n_saved * size), dtype) if n_saved else None
    n_tasks = POOL.n_threads if n_rows * size * size * n_gates >= WORTH_SHARING else 1
    packed_elements = packed_size(size, size, n_gates, h0.itemsize, precision == "bf16", n_tasks)
    operands = _Forward(
        products(precision, h0.shape[0], size),
        projected,
        rows,
        bias,
        h0,
        c0,
        Wh,
        scratch("recurrent weights", (packed_elements,), dtype),
        batch_sizes,
        hidden,
        hidden if cells is None else cells,
        hidden if gates is None else gates,
        previous,
    )
    POOL.run(n_tasks, job, *operands)
    return States(hidden, cells, gates, previous)


def _run_backward(
    kind: Cell,
    job: Job,
    dhidden: Any,
    dcell: Any,
    hidden: Any,
    cell: Any,
    gates: Any,
    previous: Any,
    c0: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    order: Any = None,
    precision: Precision = "float32",
) -> RecurrenceGradients:
    dhidden, Wh, batch_sizes = contiguous(dhidden), contiguous(Wh), contiguous(batch_sizes)
    (n_gates, _, n_saved, has_state, splits_gradient), (n_rows, size) = kind.shape, dhidden.shape
    dtype, width = dhidden.dtype, n_gates * size
    n_sequences = int(batch_sizes[0]) if batch_sizes.size else 0
    drecurrent, dh = np.empty((n_rows, width), dtype), np.empty((n_sequences, size), dtype)
    dprojected = np.empty_like(drecurrent) if splits_gradient else drecurrent
    dc = np.empty((n_sequences, size), dtype) if kind.carries_gradient else None
    # an array that the cell does not have is not read: any of its shape serves
    h = dhidden if has_state else contiguous(previous if n_saved else hidden)
    c0 = _initial_cell_states(c0, order, batch_sizes, dh) if has_state else dh
    n_tasks = POOL.n_threads if dhidden.size * width >= WORTH_SHARING else 1
    packed_elements = packed_size(width, size, 1, dh.itemsize, precision == "bf16", n_tasks)
    operands = _Backward(
        products(precision, n_sequences, width),
        dhidden,
        np.empty((0, size), dtype) if dcell is None else contiguous(dcell),
        contiguous(gates) if n_saved else h,
        contiguous(cell) if has_state else h,
        c0,
        h,
        Wh,
        scratch("recurrent weights", (packed_elements,), dtype),
        batch_sizes,
        drecurrent,
        dprojected,
        dh,
        dh if dc is None else dc,
    )
    POOL.run(n_tasks, job, *operands)
    if dc is not None and not has_state:  # what was carried is part of h's gradient
        dh += dc
        dc = None
    dh0, dc0 = in_callers_order(dh, order), None if dc is None else in_callers_order(dc, order)
    return RecurrenceGradients(dprojected, drecurrent if splits_gradient else None, dh0, dc0)


def _initial_cell_states(c0: Any, order: Any, batch_sizes: Any, like: Any) -> Any:
    return np.zeros_like(like) if c0 is None else initial_states(c0, order, batch_sizes)
