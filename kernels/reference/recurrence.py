"""The oracle of the recurrences over packed sequences.

Packed rows are time-major (see `capgpu.sequence`): ``batch_sizes`` is a host array, never rising; step t owns the
next ``batch_sizes[t]`` of the M rows; row r of a step belongs to the same sequence as row r of the step before.
The pre-activations from the input, ``projected``, are either one row a packed row (``rows`` is None) or a table
addressed by ``rows`` (M,): a word that occurs often in a batch is projected once.
Gates lie in the order i, f, o, g along the last axis (input, forget, output, candidate).

Initial states have one row for each sequence of the first step, or, with ``order`` (N,), one for each of N sequences in
the caller's order: sequence ``order[r]`` is row r of the first step. Their gradients are returned likewise.
"""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from capgpu.backend import Array, array_namespace
from capgpu.kernels.contract import Precision, States
from capgpu.kernels.reference.precision import product

__all__ = [
    "in_callers_order",
    "in_rank_order",
    "join_steps",
    "lstm_backward",
    "lstm_forward",
    "padded_add",
    "previous_states",
    "rnn_backward",
    "rnn_forward",
    "step_rows",
]


def _sigmoid(xp: Any, a: Array) -> Array:
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


def in_rank_order(xp: Any, states: Array | None, order: Array | None, batch_sizes: Any) -> Array | None:
    """Return the initial states of the sequences of the first step."""
    if states is None or order is None:
        return states
    return xp.take(states, order[: _alive(batch_sizes)], axis=0)


def in_callers_order(xp: Any, gradient: Array, order: Array | None) -> Array:
    """Undo `in_rank_order` for a gradient; zero for sequences without any step."""
    if order is None:
        return gradient
    count = order.shape[0] - gradient.shape[0]
    padding = xp.zeros((count, *gradient.shape[1:]), dtype=gradient.dtype, device=gradient.device)
    return xp.take(xp.concat([gradient, padding], axis=0), xp.argsort(order), axis=0)


def _alive(batch_sizes: Any) -> int:
    return int(batch_sizes[0]) if batch_sizes.size else 0


def _biased(states: Array, bias: Array | None) -> Array:
    return states if bias is None else states + bias


def previous_states(hidden: Array, h0: Array, batch_sizes: Any) -> Array:
    """Return the hidden state before each packed row, shape (M, H), from those after it and the initial ones."""
    xp = array_namespace(hidden, h0)
    counts = batch_sizes.tolist()
    parts, start = [h0[: _alive(batch_sizes), :]], 0
    for previous, count in pairwise(counts):
        parts.append(hidden[start : start + count, :])
        start += previous
    return parts[0] if len(parts) == 1 else xp.concat(parts, axis=0)


def lstm_forward(
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
    """Run an LSTM over packed sequences.

    Parameters
    ----------
    projected : array, shape (M, 4H), or (U, 4H) with `rows`
        ``x @ Wx``.
    rows : array of int, shape (M,), or None
        Row of `projected` for each packed row.
    h0 : array, shape (batch_sizes[0], H), or (N, H) with `order`
        Initial hidden state.
    c0 : array, shaped like `h0`, or None
        Initial cell state; None is zero.
    Wh : array, shape (H, 4H)
        Recurrent weights.
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Rows of each step.
    bias : array, shape (4H,), optional
        Added to the pre-activations.
    h0_bias : array, shape (H,), optional
        Added to `h0`.
    order : array of int, shape (N,), optional
        Row of `h0` and `c0` for each sequence.
    precision : {"float32", "bf16"}
        How the products read their factors (`capgpu.kernels.contract.Precision`).

    Returns
    -------
    States
        Hidden and cell states, activated gates, and the hidden states before each step.

    Notes
    -----
    ``i, f, o = sigmoid(a_i, a_f, a_o); g = tanh(a_g); c' = f c + i g; h' = o tanh(c')`` with
    ``a = x Wx + h Wh + b`` (Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000).
    """
    xp = array_namespace(projected, h0, Wh)
    size = h0.shape[1]
    projected = _biased(projected, bias)
    h = first = _biased(in_rank_order(xp, h0, order, batch_sizes), h0_bias)
    c = in_rank_order(xp, c0, order, batch_sizes)
    c = xp.zeros_like(h) if c is None else c
    hidden_steps: list[Array] = []
    cell_steps: list[Array] = []
    gate_steps: list[Array] = []
    start = 0
    for count in batch_sizes.tolist():
        h, c = h[:count, :], c[:count, :]
        a = step_rows(xp, projected, rows, start, start + count) + product(h, Wh, precision)
        ifo = _sigmoid(xp, a[:, : 3 * size])
        i, f, o = ifo[:, :size], ifo[:, size : 2 * size], ifo[:, 2 * size :]
        g = xp.tanh(a[:, 3 * size :])
        c = f * c + i * g
        h = o * xp.tanh(c)
        hidden_steps.append(h)
        cell_steps.append(c)
        gate_steps.append(xp.concat([ifo, g], axis=1))
        start += count
    hidden = join_steps(xp, hidden_steps, size, h0)
    cell, gates = join_steps(xp, cell_steps, size, h0), join_steps(xp, gate_steps, 4 * size, h0)
    return States(hidden, cell, gates, previous_states(hidden, first, batch_sizes))


def lstm_backward(
    dhidden: Array,
    dcell: Array | None,
    gates: Array,
    cell: Array,
    c0: Array | None,
    Wh: Array,
    batch_sizes: Any,
    *,
    order: Array | None = None,
    precision: Precision = "float32",
) -> tuple[Array, Array, Array]:
    """Run the LSTM's recurrence backward, down to the pre-activations.

    The gradients of weights and inputs are products over all rows at once, left to the caller.

    Parameters
    ----------
    dhidden : array, shape (M, H)
        Gradient of the loss with respect to each hidden state, from outside the recurrence.
    dcell : array, shape (M, H), or None
        The same for the cell states; None is zero.
    gates, cell : array, shape (M, 4H) and (M, H)
        From the forward pass.
    c0 : array, shape (batch_sizes[0], H), or (N, H) with `order`, or None
        Initial cell state; None is zero.
    Wh : array, shape (H, 4H)
        Recurrent weights.
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Rows of each step.
    order : array of int, shape (N,), optional
        Row of `c0`, and of the gradients of the initial states, for each sequence.
    precision : {"float32", "bf16"}
        How the products read their factors (`capgpu.kernels.contract.Precision`).

    Returns
    -------
    dprojected : array, shape (M, 4H)
        Gradient with respect to the pre-activations of each packed row.
    dh0, dc0 : array, shape (batch_sizes[0], H), or (N, H) with `order`
        Gradients with respect to the initial states; zero for sequences without any step.
    """
    xp = array_namespace(dhidden, gates, cell, Wh)
    size = cell.shape[1]
    c0 = in_rank_order(xp, c0, order, batch_sizes)
    stop = dhidden.shape[0]
    dh = dc = xp.zeros((0, size), dtype=cell.dtype, device=cell.device)
    out: list[Array] = []
    counts = batch_sizes.tolist()
    for step in reversed(range(len(counts))):
        count = counts[step]
        start = stop - count
        if step:
            c_before = cell[start - counts[step - 1] : start - counts[step - 1] + count, :]
        else:
            c_before = xp.zeros((count, size), dtype=cell.dtype, device=cell.device) if c0 is None else c0
        i = gates[start:stop, :size]
        f = gates[start:stop, size : 2 * size]
        o = gates[start:stop, 2 * size : 3 * size]
        g = gates[start:stop, 3 * size :]
        tanh_c = xp.tanh(cell[start:stop, :])
        dh = padded_add(xp, dhidden[start:stop, :], dh)
        dc_here = dh * o * (1 - tanh_c * tanh_c)
        if dcell is not None:
            dc_here = dc_here + dcell[start:stop, :]
        dc = padded_add(xp, dc_here, dc)
        da = xp.concat(
            [
                dc * g * i * (1 - i),
                dc * c_before * f * (1 - f),
                dh * tanh_c * o * (1 - o),
                dc * i * (1 - g * g),
            ],
            axis=1,
        )
        out.append(da)
        dc = dc * f
        dh = product(da, xp.matrix_transpose(Wh), precision)
        stop = start
    dh0, dc0 = (in_callers_order(xp, gradient, order) for gradient in (dh, dc))
    return join_steps(xp, out[::-1], 4 * size, cell), dh0, dc0


def rnn_forward(
    projected: Array,
    rows: Array | None,
    h0: Array,
    Wh: Array,
    batch_sizes: Any,
    *,
    bias: Array | None = None,
    h0_bias: Array | None = None,
    order: Array | None = None,
    precision: Precision = "float32",
) -> States:
    """Run a vanilla RNN, ``h' = tanh(x Wx + h Wh + b)``, over packed sequences (Elman 1990).

    Parameters
    ----------
    projected : array, shape (M, H), or (U, H) with `rows`
        ``x @ Wx``.
    rows : array of int, shape (M,), or None
        Row of `projected` for each packed row.
    h0 : array, shape (batch_sizes[0], H), or (N, H) with `order`
        Initial hidden state.
    Wh : array, shape (H, H)
        Recurrent weights.
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Rows of each step.
    bias, h0_bias : array, shape (H,), optional
        Added to the pre-activations, and to `h0`.
    order : array of int, shape (N,), optional
        Row of `h0` for each sequence.
    precision : {"float32", "bf16"}
        How the products read their factors (`capgpu.kernels.contract.Precision`).

    Returns
    -------
    States
        Hidden states, and those before each step; no cell states, no gates.
    """
    xp = array_namespace(projected, h0, Wh)
    projected = _biased(projected, bias)
    h = first = _biased(in_rank_order(xp, h0, order, batch_sizes), h0_bias)
    steps, start = [], 0
    for count in batch_sizes.tolist():
        h = xp.tanh(step_rows(xp, projected, rows, start, start + count) + product(h[:count, :], Wh, precision))
        steps.append(h)
        start += count
    hidden = join_steps(xp, steps, h0.shape[1], h0)
    return States(hidden, None, None, previous_states(hidden, first, batch_sizes))


def rnn_backward(
    dhidden: Array,
    hidden: Array,
    Wh: Array,
    batch_sizes: Any,
    *,
    order: Array | None = None,
    precision: Precision = "float32",
) -> tuple[Array, Array]:
    """Run the RNN's recurrence backward, down to the pre-activations.

    Parameters
    ----------
    dhidden : array, shape (M, H)
        Gradient of the loss with respect to each hidden state, from outside the recurrence.
    hidden : array, shape (M, H)
        From the forward pass.
    Wh : array, shape (H, H)
        Recurrent weights.
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Rows of each step.
    order : array of int, shape (N,), optional
        Row of the initial state's gradient for each sequence.
    precision : {"float32", "bf16"}
        How the products read their factors (`capgpu.kernels.contract.Precision`).

    Returns
    -------
    dprojected : array, shape (M, H)
        Gradient with respect to the pre-activations of each packed row.
    dh0 : array, shape (batch_sizes[0], H), or (N, H) with `order`
        Gradient with respect to the initial hidden state; zero for sequences without any step.
    """
    xp = array_namespace(dhidden, hidden, Wh)
    size = hidden.shape[1]
    stop = dhidden.shape[0]
    dh = xp.zeros((0, size), dtype=hidden.dtype, device=hidden.device)
    out: list[Array] = []
    for count in reversed(batch_sizes.tolist()):
        start = stop - count
        h = hidden[start:stop, :]
        da = padded_add(xp, dhidden[start:stop, :], dh) * (1 - h * h)
        out.append(da)
        dh = product(da, xp.matrix_transpose(Wh), precision)
        stop = start
    return join_steps(xp, out[::-1], size, hidden), in_callers_order(xp, dh, order)
