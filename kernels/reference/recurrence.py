"""The oracle of the recurrences over packed sequences: the loop over the steps, for every cell.

A cell's file (such as `capgpu.kernels.reference.gru`) holds the mathematics of one step, forward and backward.

Packed rows are time-major (see `capgpu.sequence`): ``batch_sizes`` is a host array, never rising; step t owns the
next ``batch_sizes[t]`` of the M rows; row r of a step belongs to the same sequence as row r of the step before.
The pre-activations from the input, ``projected``, are either one row a packed row (``rows`` is None) or a table
addressed by ``rows`` (M,): a word that occurs often in a batch is projected once.
Gates lie one after the other along the last axis.

Initial states have one row for each sequence of the first step, or, with ``order`` (N,), one for each of N sequences in
the caller's order: sequence ``order[r]`` is row r of the first step. Their gradients are returned likewise.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from capgpu.backend import Array, array_namespace
from capgpu.kernels.cells import CellShape, RecurrenceBackward, RecurrenceForward, RecurrenceGradients
from capgpu.kernels.contract import Precision, States, split_biases
from capgpu.kernels.reference.precision import product

__all__ = [
    "Cell",
    "Saved",
    "in_callers_order",
    "in_rank_order",
    "join_steps",
    "operations",
    "padded_add",
    "previous_states",
    "sigmoid",
    "step_rows",
]


class Saved(NamedTuple):
    """What the backward pass of a step reads: its rows of what the forward pass has computed.

    Attributes
    ----------
    h, h_before : array, shape (n, H)
        Hidden states after and before the step.
    c, c_before : array, shape (n, H), or None
        Cell states after and before the step.
    gates : array, shape (n, n_saved * H), or None
        What the forward pass has saved.
    dcell : array, shape (n, H), or None
        Gradient of the loss with respect to the cell states, from outside the recurrence; None is zero.
    """

    h: Any
    h_before: Any
    c: Any
    c_before: Any
    gates: Any
    dcell: Any


class Cell(NamedTuple):
    """The mathematics of one step of a cell.

    Attributes
    ----------
    shape : CellShape
        Its gates and biases.
    forward : callable
        (xp, a, u, h, c, bias) -> (h, c, gates): from the input's part a, (n, G), and the recurrent part u = h Wh of the
        pre-activations, the states before the step, and the biases of u or None, the states after it and what is saved.
    backward : callable
        (xp, dh, dc, saved) -> (da, du, dh, dc): from the gradient of the hidden states, and that of the cell states
        that later steps send to the first rows, the gradients of a and u (one array, unless the cell splits them), what
        goes to the hidden states before the step other than through u (or None), and the gradient of the cell states.
    """

    shape: CellShape
    forward: Callable[[Any, Array, Array, Array, Any, Array | None], tuple[Array, Array | None, Array | None]]
    backward: Callable[[Any, Array, Any, Saved], tuple[Array, Array, Array | None, Array | None]]


def operations(cell: Cell) -> tuple[RecurrenceForward, RecurrenceBackward]:
    """Return the two operations of a cell."""
    return partial(_run_forward, cell), partial(_run_backward, cell)


def _run_forward(
    kind: Cell,
    projected: Array,
    rows: Array | None,
    h0: Array,
    c0: Array | None,
    Wh: Array,
    batch_sizes: Any,
    *,
    bias: Array | None = None,
    h0_bias: Array | None = None,
    order: Array | None = None,
    precision: Precision = "float32",
) -> States:
    xp = array_namespace(projected, h0, Wh)
    size, recurrent_bias = h0.shape[1], None
    if bias is not None:
        bias, recurrent_bias = split_biases(bias, Wh)
        projected = projected + bias
    h = in_rank_order(xp, h0, order, batch_sizes)
    h = first = h if h0_bias is None else h + h0_bias
    c = None
    if kind.shape.has_state:
        c = xp.zeros_like(h) if c0 is None else in_rank_order(xp, c0, order, batch_sizes)
    steps: list[tuple[Any, ...]] = []
    start = 0
    for count in batch_sizes.tolist():
        h, c = h[:count, :], None if c is None else c[:count, :]
        a, u = step_rows(xp, projected, rows, start, start + count), product(h, Wh, precision)
        h, c, gates = kind.forward(xp, a, u, h, c, recurrent_bias)
        steps.append((h, c, gates))
        start += count
    widths = (size, size if kind.shape.has_state else 0, kind.shape.n_saved * size)
    hidden, cells, saved = (
        join_steps(xp, [step[k] for step in steps], width, h0) if width else None for k, width in enumerate(widths)
    )
    return States(hidden, cells, saved, previous_states(hidden, first, batch_sizes))


def _run_backward(
    kind: Cell,
    dhidden: Array,
    dcell: Array | None,
    hidden: Array | None,
    cell: Array | None,
    gates: Array | None,
    previous: Array | None,
    c0: Array | None,
    Wh: Array,
    batch_sizes: Any,
    *,
    order: Array | None = None,
    precision: Precision = "float32",
) -> RecurrenceGradients:
    xp = array_namespace(dhidden, Wh)
    size, stop = dhidden.shape[1], dhidden.shape[0]
    dh = dc = xp.zeros((0, size), dtype=dhidden.dtype, device=dhidden.device)
    input_steps: list[Array] = []
    recurrent_steps: list[Array] = []
    counts = batch_sizes.tolist()
    for step in reversed(range(len(counts))):
        start = stop - counts[step]
        h, h_before, c, saved, dc_output = (
            None if array is None else array[start:stop, :] for array in (hidden, previous, cell, gates, dcell)
        )
        c_before = None
        if cell is not None and step:
            before = start - counts[step - 1]
            c_before = cell[before : before + counts[step], :]
        elif cell is not None:
            c_before = xp.zeros_like(c) if c0 is None else in_rank_order(xp, c0, order, batch_sizes)
        dh = padded_add(xp, dhidden[start:stop, :], dh)
        da, du, dh_beside, dc = kind.backward(xp, dh, dc, Saved(h, h_before, c, c_before, saved, dc_output))
        input_steps.append(da)
        recurrent_steps.append(du)
        dh = product(du, xp.matrix_transpose(Wh), precision)
        if dh_beside is not None:
            dh = dh_beside + dh
        stop = start
    dprojected, drecurrent = (
        join_steps(xp, steps[::-1], Wh.shape[1], dhidden) if needed else None
        for steps, needed in ((input_steps, True), (recurrent_steps, kind.shape.splits_gradient))
    )
    dc0 = in_callers_order(xp, dc, order) if kind.shape.has_state else None
    return RecurrenceGradients(dprojected, drecurrent, in_callers_order(xp, dh, order), dc0)


def sigmoid(xp: Any, a: Array) -> Array:
    """Return the logistic function of each element."""
    # the form with tanh cannot overflow, whatever the sign of a; floats in the place of 1 and 2 would make float32 of
    # bfloat16
    return (xp.tanh(a / 2) + 1) / 2


def step_rows(xp: Any, projected: Array, rows: Array | None, start: int, stop: int) -> Array:
    """Return the rows of `projected` for packed rows start..stop-1."""
    if rows is None:
        return projected[start:stop, :]
    return xp.take(projected, rows[start:stop], axis=0)


def join_steps(xp: Any, steps: list[Array], width: int, like: Array) -> Array:
    """Return the packed rows (M, width) of all steps."""
    if not steps:
        return xp.zeros((0, width), dtype=like.dtype, device=like.device)
    return steps[0] if len(steps) == 1 else xp.concat(steps, axis=0)


def padded_add(xp: Any, long: Array, short: Array) -> Array:
    """Add `short` to the first rows of `long`: sequences that have ended receive nothing from later steps."""
    count = short.shape[0]
    if count == long.shape[0]:
        return long + short
    return xp.concat([long[:count, ...] + short, long[count:, ...]], axis=0)


def in_rank_order(xp: Any, states: Array, order: Array | None, batch_sizes: Any) -> Array:
    """Return the initial states of the sequences of the first step."""
    return states if order is None else xp.take(states, order[: _alive(batch_sizes)], axis=0)


def in_callers_order(xp: Any, gradient: Array, order: Array | None) -> Array:
    """Undo `in_rank_order` for a gradient; zero for sequences without any step."""
    if order is None:
        return gradient
    count = order.shape[0] - gradient.shape[0]
    padding = xp.zeros((count, *gradient.shape[1:]), dtype=gradient.dtype, device=gradient.device)
    return xp.take(xp.concat([gradient, padding], axis=0), xp.argsort(order), axis=0)


def previous_states(hidden: Array, h0: Array, batch_sizes: Any) -> Array:
    """Return the hidden state before each packed row, shape (M, H), from those after it and the initial ones."""
    xp = array_namespace(hidden, h0)
    counts = batch_sizes.tolist()
    parts, start = [h0[: _alive(batch_sizes), :]], 0
    for previous, count in pairwise(counts):
        parts.append(hidden[start : start + count, :])
        start += previous
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)


def _alive(batch_sizes: Any) -> int:
    return int(batch_sizes[0]) if batch_sizes.size else 0
