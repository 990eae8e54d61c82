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

from capgpu.kernels.contract import Precision, States
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.fast_math import hyperbolic_tangent, multiply_add, sigmoid
from capgpu.kernels.cpu.gemm import WORTH_SHARING, aligned
from capgpu.kernels.cpu.initial_states import in_callers_order, initial_states
from capgpu.kernels.cpu.job_slot import barrier, run_job
from capgpu.kernels.cpu.recurrent_gemm import (
    Products,
    pack_gates,
    packed_size,
    product_of_gates,
    products,
    scratch_size,
    unit_range,
)
from capgpu.kernels.cpu.simd_pack import LONG, pasted, whole_vectors
from capgpu.kernels.cpu.task_code import describe_job
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous, scratch

__all__ = ["activate_lstm", "lstm_backward", "lstm_forward"]


@compiled(allocates=False)
def _activate(gates: Any, projected: Any, bias: Any, c_before: Any, c: Any, h: Any, left: int, right: int) -> None:
    """Do the work of `activate_lstm`.

    Short loops over plain slices, so that each one vectorises: an index with an offset might be negative for all that
    the compiler knows, and would be looked at each time.
    """
    pasted()
    size = c.size
    for kind in range(3):
        first, last = kind * size + left, kind * size + right
        gate, sums, offsets = gates[first:last], projected[first:last], bias[first:last]
        for j in range(gate.size):
            gate[j] = sigmoid(gate[j] + (sums[j] + offsets[j]))
    i, f, o = gates[left:right], gates[size + left : size + right], gates[2 * size + left : 2 * size + right]
    first, last = 3 * size + left, 3 * size + right
    g, g_sums, g_offsets = gates[first:last], projected[first:last], bias[first:last]
    before, here, state = c_before[left:right], c[left:right], h[left:right]
    for j in range(g.size):
        g[j] = hyperbolic_tangent(g[j] + (g_sums[j] + g_offsets[j]))
    for j in range(g.size):
        here[j] = multiply_add(f[j], before[j], i[j] * g[j])
    for j in range(g.size):
        state[j] = o[j] * hyperbolic_tangent(here[j])


@compiled(allocates=False)
def _activate_long(gates: Any, projected: Any, bias: Any, c_before: Any, c: Any, h: Any, left: int, right: int) -> None:
    whole_vectors()
    _activate(gates, projected, bias, c_before, c, h, left, right)


@compiled(allocates=False)
def activate_lstm(gates: Any, projected: Any, bias: Any, c_before: Any, c: Any, h: Any, left: int, right: int) -> None:
    """Turn units left..right-1 of one row of recurrent sums into activated gates and states."""
    if right - left < LONG:
        _activate(gates, projected, bias, c_before, c, h, left, right)
    else:
        _activate_long(gates, projected, bias, c_before, c, h, left, right)


@compiled()
def _forward(
    index: int,
    count: int,
    slot: int,
    multiply: Products,
    projected: Any,
    rows: Any,
    bias: Any,
    h0: Any,
    c0: Any,
    Wh: Any,
    packed: Any,
    batch_sizes: Any,
    hidden: Any,
    cell: Any,
    gates: Any,
    previous: Any,
) -> None:
    edge = aligned(scratch_size(multiply, h0.itemsize), h0)
    left, right = unit_range(index, count, h0.shape[1], h0.itemsize)
    own = pack_gates(multiply, Wh, False, 4, left, right, index, packed, edge)
    start = before = 0
    for step in range(batch_sizes.size):
        alive = batch_sizes[step]
        states, first = (h0, 0) if step == 0 else (hidden, before)
        product_of_gates(multiply, states, first, alive, packed, own, 4, left, right, gates, start, edge)
        for rank in range(alive):
            row = start + rank
            c_before = c0[rank] if step == 0 else cell[before + rank]
            source, target = states[first + rank, left:right], previous[row, left:right]
            for j in range(target.size):
                target[j] = source[j]
            activate_lstm(gates[row], projected[rows[row]], bias, c_before, cell[row], hidden[row], left, right)
        if not barrier(slot, index, count, step + 1):
            return
        before = start
        start += alive


_describe_forward = describe_job(_forward, barriers=True)


@compiled()
def _launch_forward(slot: int, n_tasks: int, arguments: Any) -> bool:
    return run_job(slot, n_tasks, _describe_forward(arguments))


@compiled(allocates=False)
def _differentiate(
    dh: Any,
    dh_later: Any,
    dcell: Any,
    gates: Any,
    c_before: Any,
    c: Any,
    dc: Any,
    tanh_c: Any,
    out: Any,
    left: int,
    right: int,
) -> None:
    """Turn one row's gradients of h and c into those of the pre-activations; `dc` is carried to the step before."""
    pasted()
    size = c.size
    # typed: an integer literal would lift float32 to float64
    one = c.dtype.type(1)
    i, f, o = gates[left:right], gates[size + left : size + right], gates[2 * size + left : 2 * size + right]
    g, dg = gates[3 * size + left : 3 * size + right], out[3 * size + left : 3 * size + right]
    di, df, do = out[left:right], out[size + left : size + right], out[2 * size + left : 2 * size + right]
    dh, dh_later, dcell, dc = dh[left:right], dh_later[left:right], dcell[left:right], dc[left:right]
    c_before, c, tanh_c = c_before[left:right], c[left:right], tanh_c[left:right]
    for j in range(i.size):
        tanh_c[j] = hyperbolic_tangent(c[j])
    for j in range(i.size):
        dh_later[j] += dh[j]
    for j in range(i.size):
        do[j] = dh_later[j] * tanh_c[j] * o[j] * (one - o[j])
    for j in range(i.size):
        dc[j] += dh_later[j] * o[j] * (one - tanh_c[j] * tanh_c[j]) + dcell[j]
    for j in range(i.size):
        di[j] = dc[j] * g[j] * i[j] * (one - i[j])
    for j in range(i.size):
        dg[j] = dc[j] * i[j] * (one - g[j] * g[j])
    for j in range(i.size):
        df[j] = dc[j] * c_before[j] * f[j] * (one - f[j])
    for j in range(i.size):
        dc[j] *= f[j]


@compiled(allocates=False)
def _differentiate_short(
    dh: Any, later: Any, dcell: Any, gates: Any, before: Any, c: Any, dc: Any, t: Any, out: Any, left: int, right: int
) -> None:
    _differentiate(dh, later, dcell, gates, before, c, dc, t, out, left, right)


@compiled(allocates=False)
def _differentiate_long(
    dh: Any, later: Any, dcell: Any, gates: Any, before: Any, c: Any, dc: Any, t: Any, out: Any, left: int, right: int
) -> None:
    whole_vectors()
    _differentiate(dh, later, dcell, gates, before, c, dc, t, out, left, right)


@compiled()
def _backward(
    index: int,
    count: int,
    slot: int,
    multiply: Products,
    dhidden: Any,
    dcell: Any,
    has_dcell: bool,
    gates: Any,
    cell: Any,
    c0: Any,
    Wh: Any,
    packed: Any,
    batch_sizes: Any,
    dprojected: Any,
    dh: Any,
    dc: Any,
) -> None:
    size = cell.shape[1]
    # one allocation: what a task holds when it raises is never freed
    edge_size = scratch_size(multiply, cell.itemsize)
    scratch = aligned(edge_size + 2 * size, cell)
    edge, tanh_c = scratch[:edge_size], scratch[edge_size : edge_size + size]
    nothing = scratch[edge_size + size :]
    nothing[:] = 0
    left, right = unit_range(index, count, size, cell.itemsize)
    own = pack_gates(multiply, Wh, True, 1, left, right, index, packed, edge)
    # dh and dc hold the gradients that later steps send; a sequence that ends at this step has received none
    dh[:, left:right] = 0
    dc[:, left:right] = 0
    stop = dhidden.shape[0]
    for back in range(batch_sizes.size):
        step = batch_sizes.size - 1 - back
        alive = batch_sizes[step]
        start = stop - alive
        for rank in range(alive):
            row = start + rank
            c_before = c0[rank] if step == 0 else cell[start - batch_sizes[step - 1] + rank]
            sent = dcell[row] if has_dcell else nothing
            out = dprojected[row]
            if right - left < LONG:
                _differentiate_short(
                    dhidden[row], dh[rank], sent, gates[row], c_before, cell[row], dc[rank], tanh_c, out, left, right
                )
            else:
                _differentiate_long(
                    dhidden[row], dh[rank], sent, gates[row], c_before, cell[row], dc[rank], tanh_c, out, left, right
                )
        if not barrier(slot, index, count, back + 1):
            return
        product_of_gates(multiply, dprojected, start, alive, packed, own, 1, left, right, dh, 0, edge)
        stop = start


_describe_backward = describe_job(_backward, barriers=True)


@compiled()
def _launch_backward(slot: int, n_tasks: int, arguments: Any) -> bool:
    return run_job(slot, n_tasks, _describe_backward(arguments))


def lstm_forward(
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
    """Run an LSTM over packed sequences; see `capgpu.kernels.reference.lstm_forward`."""
    h0, total = initial_states(h0, order, batch_sizes, h0_bias), (projected if rows is None else rows).shape[0]
    c0 = np.zeros_like(h0) if c0 is None else initial_states(c0, order, batch_sizes)
    projected, Wh, batch_sizes = (contiguous(a) for a in (projected, Wh, batch_sizes))
    size = h0.shape[1]
    rows = np.arange(total) if rows is None else contiguous(rows, dtype=np.int64)
    bias = np.zeros(4 * size, h0.dtype) if bias is None else contiguous(bias)
    hidden = np.empty((total, size), dtype=h0.dtype)
    cell, previous = np.empty_like(hidden), np.empty_like(hidden)
    gates = np.empty((total, 4 * size), dtype=h0.dtype)
    n_tasks = POOL.n_threads if total * size * size * 4 >= WORTH_SHARING else 1
    room = packed_size(size, size, 4, h0.itemsize, precision == "bf16", n_tasks)
    packed, multiply = scratch("recurrent weights", (room,), h0.dtype), products(precision, h0.shape[0], size)
    results = States(hidden, cell, gates, previous)
    POOL.run(n_tasks, _launch_forward, multiply, projected, rows, bias, h0, c0, Wh, packed, batch_sizes, *results)
    return results


def lstm_backward(
    dhidden: Any,
    dcell: Any,
    gates: Any,
    cell: Any,
    c0: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    order: Any = None,
    precision: Precision = "float32",
) -> tuple[Any, Any, Any]:
    """Run the LSTM's recurrence backward; see `capgpu.kernels.reference.lstm_backward`."""
    dhidden, gates, cell, Wh, batch_sizes = (contiguous(a) for a in (dhidden, gates, cell, Wh, batch_sizes))
    size = cell.shape[1]
    alive = int(batch_sizes[0]) if batch_sizes.size else 0
    c0 = np.zeros((alive, size), dtype=cell.dtype) if c0 is None else initial_states(c0, order, batch_sizes)
    has_dcell = dcell is not None
    dcell = contiguous(dcell) if has_dcell else dhidden
    dprojected = np.empty_like(gates)
    dh, dc = np.empty((alive, size), dtype=cell.dtype), np.empty((alive, size), dtype=cell.dtype)
    n_tasks = POOL.n_threads if dhidden.size * size * 4 >= WORTH_SHARING else 1
    room = packed_size(4 * size, size, 1, cell.itemsize, precision == "bf16", n_tasks)
    packed, multiply = scratch("recurrent weights", (room,), cell.dtype), products(precision, dh.shape[0], 4 * size)
    POOL.run(
        n_tasks,
        _launch_backward,
        multiply,
        dhidden,
        dcell,
        has_dcell,
        gates,
        cell,
        c0,
        Wh,
        packed,
        batch_sizes,
        dprojected,
        dh,
        dc,
    )
    return dprojected, in_callers_order(dh, order), in_callers_order(dc, order)
