"""The LSTM's recurrence over packed sequences, forward and backward.

    a = x Wx + b + h Wh;  i, f, o = sigmoid(a_i, a_f, a_o);  g = tanh(a_g);  c' = f c + i g;  h' = o tanh(c')

``Wh`` is packed once a pass; each step is one product of the rows alive with the packed weights, then one sweep over
the gates while they are in the cache. Saved for the backward pass: the activated gates and the cells; tanh(c) is
computed again. The backward sweep writes the gradients of the pre-activations (packed) and carries dh through
Wh-transposed; the gradients of weights and inputs are products over all steps, made by the caller.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.elementary import hyperbolic_tangent, sigmoid
from capgpu.kernels.cpu.handoff import announce, publisher
from capgpu.kernels.cpu.product import PACK, WORTH_SHARING, aligned, packed_product, packed_size
from capgpu.kernels.cpu.rows import owned
from capgpu.kernels.cpu.team import TEAM, Region
from capgpu.kernels.cpu.tile import PANEL_BYTES, ROWS
from capgpu.kernels.cpu.vectors import LONG, whole_vectors
from capgpu.kernels.cpu.workspace import scratch

__all__ = ["activate_lstm", "lstm_backward", "lstm_forward"]


@compiled(inline=True, allocates=False)
def _activate(gates: Any, projected: Any, c_before: Any, c: Any, h: Any) -> None:
    """Do the work of `activate_lstm`.

    Short loops over plain slices, so that each one vectorises: an index with an offset might be negative for all that
    the compiler knows, and would be looked at each time.
    """
    size = c.size
    ifo, ifo_input = gates[: 3 * size], projected[: 3 * size]
    i, f, o, g = gates[:size], gates[size : 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
    g_input = projected[3 * size :]
    for j in range(3 * size):
        ifo[j] = sigmoid(ifo[j] + ifo_input[j])
    for j in range(size):
        g[j] = hyperbolic_tangent(g[j] + g_input[j])
    for j in range(size):
        c[j] = f[j] * c_before[j] + i[j] * g[j]
    for j in range(size):
        h[j] = o[j] * hyperbolic_tangent(c[j])


@compiled(allocates=False)
def _activate_long(gates: Any, projected: Any, c_before: Any, c: Any, h: Any) -> None:
    whole_vectors()
    _activate(gates, projected, c_before, c, h)


@compiled(allocates=False)
def activate_lstm(gates: Any, projected: Any, c_before: Any, c: Any, h: Any) -> None:
    """Turn one row of recurrent sums into activated gates and states."""
    if c.size < LONG:
        _activate(gates, projected, c_before, c, h)
    else:
        _activate_long(gates, projected, c_before, c, h)


@compiled()
def _forward(
    index: int,
    count: int,
    projected: Any,
    rows: Any,
    h0: Any,
    c0: Any,
    packed: Any,
    batch_sizes: Any,
    hidden: Any,
    cell: Any,
    gates: Any,
) -> None:
    size = h0.shape[1]
    edge = aligned(ROWS * (PANEL_BYTES // h0.itemsize), h0)
    start = before = 0
    for step in range(batch_sizes.size):
        alive = owned(index, count, batch_sizes[step])
        if alive == 0:
            break
        if step == 0:
            packed_product(h0, index, count, alive, packed, size, gates, start + index, count, edge)
        else:
            packed_product(hidden, before + index, count, alive, packed, size, gates, start + index, count, edge)
        for i in range(alive):
            rank = index + i * count
            row = start + rank
            c_before = c0[rank] if step == 0 else cell[before + rank]
            activate_lstm(gates[row], projected[rows[row]], c_before, cell[row], hidden[row])
        before = start
        start += batch_sizes[step]


_publish_forward = publisher(_forward)


@compiled()
def _launch_forward(memory: int, ticket: int, count: int, arguments: Any) -> None:
    _publish_forward(memory, count, arguments)
    announce(memory, ticket)


FORWARD = Region(_forward, _launch_forward)


@compiled(inline=True, allocates=False)
def _differentiate_row(
    dh: Any, dh_later: Any, dcell: Any, gates: Any, c_before: Any, c: Any, dc: Any, tanh_c: Any, out: Any
) -> None:
    """Turn one row's gradients of h and c into those of the pre-activations; `dc` is carried to the step before."""
    size = c.size
    # typed: an integer literal would lift float32 to float64
    one = c.dtype.type(1)
    i, f, o, g = gates[:size], gates[size : 2 * size], gates[2 * size : 3 * size], gates[3 * size :]
    di, df, do, dg = out[:size], out[size : 2 * size], out[2 * size : 3 * size], out[3 * size :]
    for j in range(size):
        tanh_c[j] = hyperbolic_tangent(c[j])
    for j in range(size):
        dh_later[j] += dh[j]
    for j in range(size):
        do[j] = dh_later[j] * tanh_c[j] * o[j] * (one - o[j])
    for j in range(size):
        dc[j] += dh_later[j] * o[j] * (one - tanh_c[j] * tanh_c[j]) + dcell[j]
    for j in range(size):
        di[j] = dc[j] * g[j] * i[j] * (one - i[j])
    for j in range(size):
        dg[j] = dc[j] * i[j] * (one - g[j] * g[j])
    for j in range(size):
        df[j] = dc[j] * c_before[j] * f[j] * (one - f[j])
    for j in range(size):
        dc[j] *= f[j]


@compiled(allocates=False)
def _differentiate_long(
    dh: Any, dh_later: Any, dcell: Any, gates: Any, c_before: Any, c: Any, dc: Any, tanh_c: Any, out: Any
) -> None:
    whole_vectors()
    _differentiate_row(dh, dh_later, dcell, gates, c_before, c, dc, tanh_c, out)


@compiled(allocates=False)
def _differentiate(
    dh: Any, dh_later: Any, dcell: Any, gates: Any, c_before: Any, c: Any, dc: Any, tanh_c: Any, out: Any
) -> None:
    """Differentiate one row."""
    if c.size < LONG:
        _differentiate_row(dh, dh_later, dcell, gates, c_before, c, dc, tanh_c, out)
    else:
        _differentiate_long(dh, dh_later, dcell, gates, c_before, c, dc, tanh_c, out)


@compiled()
def _backward(
    index: int,
    count: int,
    dhidden: Any,
    dcell: Any,
    has_dcell: bool,
    gates: Any,
    cell: Any,
    c0: Any,
    packed: Any,
    batch_sizes: Any,
    dprojected: Any,
    dh: Any,
    dc: Any,
) -> None:
    size = cell.shape[1]
    edge = aligned(ROWS * (PANEL_BYTES // cell.itemsize), cell)
    tanh_c = np.empty(size, cell.dtype)
    nothing = np.zeros(size, cell.dtype)
    stop = dhidden.shape[0]
    # dh and dc hold the gradients that later steps send; a sequence that ends at this step has received none
    for rank in range(index, dh.shape[0], count):
        dh[rank] = 0
        dc[rank] = 0
    for back in range(batch_sizes.size):
        step = batch_sizes.size - 1 - back
        start = stop - batch_sizes[step]
        alive = owned(index, count, batch_sizes[step])
        for i in range(alive):
            rank = index + i * count
            row = start + rank
            c_before = c0[rank] if step == 0 else cell[start - batch_sizes[step - 1] + rank]
            _differentiate(
                dhidden[row],
                dh[rank],
                dcell[row] if has_dcell else nothing,
                gates[row],
                c_before,
                cell[row],
                dc[rank],
                tanh_c,
                dprojected[row],
            )
        if alive > 0:
            packed_product(dprojected, start + index, count, alive, packed, 4 * size, dh, index, count, edge)
        stop = start


_publish_backward = publisher(_backward)


@compiled()
def _launch_backward(memory: int, ticket: int, count: int, arguments: Any) -> None:
    _publish_backward(memory, count, arguments)
    announce(memory, ticket)


BACKWARD = Region(_backward, _launch_backward)


def lstm_forward(projected: Any, rows: Any, h0: Any, c0: Any, Wh: Any, batch_sizes: Any) -> tuple[Any, Any, Any]:
    """Run an LSTM over packed sequences; see `capgpu.kernels.reference.lstm_forward`."""
    projected, h0, Wh = (np.ascontiguousarray(a) for a in (projected, h0, Wh))
    c0 = np.zeros_like(h0) if c0 is None else np.ascontiguousarray(c0)
    size = h0.shape[1]
    total = int(batch_sizes.sum())
    rows = np.arange(total) if rows is None else np.ascontiguousarray(rows, dtype=np.int64)
    hidden = np.empty((total, size), dtype=h0.dtype)
    cell = np.empty((total, size), dtype=h0.dtype)
    gates = np.empty((total, 4 * size), dtype=h0.dtype)
    members = TEAM.size if total * size * size * 4 >= WORTH_SHARING else 1
    packed = scratch("recurrent weights", (packed_size(size, 4 * size, h0.itemsize),), h0.dtype)
    TEAM.run(members, PACK, Wh, False, packed)
    TEAM.run(members, FORWARD, projected, rows, h0, c0, packed, batch_sizes, hidden, cell, gates)
    return hidden, cell, gates


def lstm_backward(
    dhidden: Any, dcell: Any, gates: Any, cell: Any, c0: Any, Wh: Any, batch_sizes: Any
) -> tuple[Any, Any, Any]:
    """Run the LSTM's recurrence backward; see `capgpu.kernels.reference.lstm_backward`."""
    dhidden, gates, cell, Wh = (np.ascontiguousarray(a) for a in (dhidden, gates, cell, Wh))
    size = cell.shape[1]
    alive = int(batch_sizes[0]) if batch_sizes.size else 0
    c0 = np.zeros((alive, size), dtype=cell.dtype) if c0 is None else np.ascontiguousarray(c0)
    has_dcell = dcell is not None
    dcell = np.ascontiguousarray(dcell) if has_dcell else dhidden
    dprojected = np.empty_like(gates)
    dh, dc = np.empty((alive, size), dtype=cell.dtype), np.empty((alive, size), dtype=cell.dtype)
    members = TEAM.size if dhidden.size * size * 4 >= WORTH_SHARING else 1
    packed = scratch("recurrent weights", (packed_size(4 * size, size, cell.itemsize),), cell.dtype)
    TEAM.run(members, PACK, Wh, True, packed)
    TEAM.run(members, BACKWARD, dhidden, dcell, has_dcell, gates, cell, c0, packed, batch_sizes, dprojected, dh, dc)
    return dprojected, dh, dc
