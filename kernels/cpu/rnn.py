"""The vanilla RNN's recurrence over packed sequences, ``h' = tanh(x Wx + b + h Wh)``, forward and backward.

As in the LSTM's file: weights packed once a pass, one product a step, and for the backward pass the gradients of the
pre-activations alone. Saved for it: the hidden states.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.contract import Precision, States
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.fast_math import hyperbolic_tangent
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
from capgpu.kernels.cpu.simd_pack import LONG, whole_vectors
from capgpu.kernels.cpu.task_code import describe_job
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous, scratch

__all__ = ["activate_rnn", "rnn_backward", "rnn_forward"]


@compiled(inline=True, allocates=False)
def _activate(h: Any, projected: Any, bias: Any) -> None:
    for j in range(h.size):
        h[j] = hyperbolic_tangent(h[j] + (projected[j] + bias[j]))


@compiled(allocates=False)
def _activate_long(h: Any, projected: Any, bias: Any) -> None:
    whole_vectors()
    _activate(h, projected, bias)


@compiled(allocates=False)
def activate_rnn(h: Any, projected: Any, bias: Any) -> None:
    """Turn one row of recurrent sums, in the place of the state, into the state."""
    if h.size < LONG:
        _activate(h, projected, bias)
    else:
        _activate_long(h, projected, bias)


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
    Wh: Any,
    packed: Any,
    batch_sizes: Any,
    hidden: Any,
    previous: Any,
) -> None:
    edge = aligned(scratch_size(multiply, h0.itemsize), h0)
    left, right = unit_range(index, count, h0.shape[1], h0.itemsize)
    own = pack_gates(multiply, Wh, False, 1, left, right, index, packed, edge)
    start = before = 0
    for step in range(batch_sizes.size):
        alive = batch_sizes[step]
        states, first = (h0, 0) if step == 0 else (hidden, before)
        product_of_gates(multiply, states, first, alive, packed, own, 1, left, right, hidden, start, edge)
        for rank in range(alive):
            row = start + rank
            source, target = states[first + rank, left:right], previous[row, left:right]
            for j in range(target.size):
                target[j] = source[j]
            activate_rnn(hidden[row, left:right], projected[rows[row], left:right], bias[left:right])
        if not barrier(slot, index, count, step + 1):
            return
        before = start
        start += alive


_describe_forward = describe_job(_forward, barriers=True)


@compiled()
def _launch_forward(slot: int, n_tasks: int, arguments: Any) -> bool:
    return run_job(slot, n_tasks, _describe_forward(arguments))


@compiled(allocates=False)
def _differentiate(dh: Any, dh_later: Any, h: Any, out: Any) -> None:
    # typed: an integer literal would lift float32 to float64
    one = h.dtype.type(1)
    for j in range(h.size):
        out[j] = (dh[j] + dh_later[j]) * (one - h[j] * h[j])


@compiled()
def _backward(
    index: int,
    count: int,
    slot: int,
    multiply: Products,
    dhidden: Any,
    hidden: Any,
    Wh: Any,
    packed: Any,
    batch_sizes: Any,
    dprojected: Any,
    dh: Any,
) -> None:
    size = hidden.shape[1]
    edge = aligned(scratch_size(multiply, hidden.itemsize), hidden)
    left, right = unit_range(index, count, size, hidden.itemsize)
    own = pack_gates(multiply, Wh, True, 1, left, right, index, packed, edge)
    # dh holds the gradient that later steps send; a sequence that ends at this step has received none
    dh[:, left:right] = 0
    stop = dhidden.shape[0]
    for back in range(batch_sizes.size):
        alive = batch_sizes[batch_sizes.size - 1 - back]
        start = stop - alive
        for rank in range(alive):
            row = start + rank
            later, out = dh[rank, left:right], dprojected[row, left:right]
            _differentiate(dhidden[row, left:right], later, hidden[row, left:right], out)
        if not barrier(slot, index, count, back + 1):
            return
        product_of_gates(multiply, dprojected, start, alive, packed, own, 1, left, right, dh, 0, edge)
        stop = start


_describe_backward = describe_job(_backward, barriers=True)


@compiled()
def _launch_backward(slot: int, n_tasks: int, arguments: Any) -> bool:
    return run_job(slot, n_tasks, _describe_backward(arguments))


def rnn_forward(
    projected: Any,
    rows: Any,
    h0: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    bias: Any = None,
    h0_bias: Any = None,
    order: Any = None,
    precision: Precision = "float32",
) -> States:
    """Run a vanilla RNN over packed sequences; see `capgpu.kernels.reference.rnn_forward`."""
    h0, total = initial_states(h0, order, batch_sizes, h0_bias), (projected if rows is None else rows).shape[0]
    projected, Wh, batch_sizes = (contiguous(a) for a in (projected, Wh, batch_sizes))
    size = h0.shape[1]
    rows = np.arange(total) if rows is None else contiguous(rows, dtype=np.int64)
    bias = np.zeros(size, h0.dtype) if bias is None else contiguous(bias)
    hidden, previous = np.empty((total, size), h0.dtype), np.empty((total, size), h0.dtype)
    n_tasks = POOL.n_threads if total * size * size >= WORTH_SHARING else 1
    room = packed_size(size, size, 1, h0.itemsize, precision == "bf16", n_tasks)
    packed, multiply = scratch("recurrent weights", (room,), h0.dtype), products(precision, h0.shape[0], size)
    POOL.run(n_tasks, _launch_forward, multiply, projected, rows, bias, h0, Wh, packed, batch_sizes, hidden, previous)
    return States(hidden, None, None, previous)


def rnn_backward(
    dhidden: Any,
    hidden: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    order: Any = None,
    precision: Precision = "float32",
) -> tuple[Any, Any]:
    """Run the RNN's recurrence backward; see `capgpu.kernels.reference.rnn_backward`."""
    dhidden, hidden, Wh, batch_sizes = (contiguous(a) for a in (dhidden, hidden, Wh, batch_sizes))
    size = hidden.shape[1]
    dprojected = np.empty_like(hidden)
    dh = np.empty((int(batch_sizes[0]) if batch_sizes.size else 0, size), dtype=hidden.dtype)
    n_tasks = POOL.n_threads if dhidden.size * size >= WORTH_SHARING else 1
    room = packed_size(size, size, 1, hidden.itemsize, precision == "bf16", n_tasks)
    packed, multiply = scratch("recurrent weights", (room,), hidden.dtype), products(precision, dh.shape[0], size)
    POOL.run(n_tasks, _launch_backward, multiply, dhidden, hidden, Wh, packed, batch_sizes, dprojected, dh)
    return dprojected, in_callers_order(dh, order)
