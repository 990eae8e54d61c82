"""Update rules over all parameters in one parallel kernel, and the joint norm of their gradients.

The parameters are processed as one long run of blocks, cut evenly among the threads; every element is read once and
written once. Blocks begin at the same elements for any number of threads: the remainder of a loop, beyond its whole
vectors, is rounded in another way than they are, and would otherwise be other elements. The norm is summed by blocks in
their order.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.fast_math import multiply_add
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous

__all__ = ["adam_update", "gradient_norm", "momentum_update"]

#: Elements of a block: what one loop writes, the next reads from the first cache level.
BLOCK = 1024
#: Below this many elements one thread is faster than two.
WORTH_SHARING = 100_000


@compiled(inline=True)
def _blocks(size: int) -> int:
    return (size + BLOCK - 1) // BLOCK


@compiled(inline=True)
def _task_range(index: int, count: int, blocks: int, first: int, size: int) -> tuple[int, int]:
    """Return the half-open range of elements of an array that a task updates; the array's first block is `first`."""
    first_block, last_block = blocks * index // count, blocks * (index + 1) // count
    return max(first_block - first, 0) * BLOCK, min(max(last_block - first, 0) * BLOCK, size)


@compiled()
def _adam_moments(g: Any, m: Any, v: Any, s: Any, scale: Any) -> None:
    beta1, rest1, beta2, rest2 = s[1], s[2], s[3], s[4]
    for j in range(g.size):
        d = g[j] * scale
        m[j] = multiply_add(beta1, m[j], rest1 * d)
        v[j] = multiply_add(beta2, v[j], rest2 * d * d)


@compiled()
def _adam_change(w: Any, m: Any, v: Any, out: Any, s: Any) -> None:
    step, second, epsilon, decay = s[0], s[5], s[6], s[7]
    for j in range(w.size):
        out[j] = decay * w[j] - step * m[j] / (np.sqrt(v[j]) * second + epsilon)


@parallel_job()
def _adam(
    index: int, count: int, w: Any, g: Any, m: Any, v: Any, out: Any, settings: Any, scale: Any, blocks: int
) -> None:
    first = 0
    for k in range(len(w)):
        begin, end = _task_range(index, count, blocks, first, w[k].size)
        s = settings[k]
        for block in range(begin, end, BLOCK):
            block_end = min(block + BLOCK, end)
            m_block, v_block = m[k][block:block_end], v[k][block:block_end]
            _adam_moments(g[k][block:block_end], m_block, v_block, s, scale[0])
            _adam_change(w[k][block:block_end], m_block, v_block, out[k][block:block_end], s)
        first += _blocks(w[k].size)


@parallel_job()
def _momentum(
    index: int, count: int, w: Any, g: Any, velocity: Any, out: Any, settings: Any, scale: Any, blocks: int
) -> None:
    first = 0
    for k in range(len(w)):
        begin, end = _task_range(index, count, blocks, first, w[k].size)
        rate, momentum, factor = settings[k, 0], settings[k, 1], scale[0]
        for block in range(begin, end, BLOCK):
            block_end = min(block + BLOCK, end)
            v, gradient = velocity[k][block:block_end], g[k][block:block_end]
            old, new = w[k][block:block_end], out[k][block:block_end]
            for j in range(v.size):
                v[j] = multiply_add(momentum, v[j], -rate * (factor * gradient[j]))
            for j in range(v.size):
                new[j] = old[j] + v[j]
        first += _blocks(w[k].size)


@parallel_job()
def _descend(index: int, count: int, w: Any, g: Any, out: Any, rates: Any, scale: Any, blocks: int) -> None:
    first = 0
    for k in range(len(w)):
        begin, end = _task_range(index, count, blocks, first, w[k].size)
        rate, factor = rates[k, 0], scale[0]
        if begin < end:
            old, gradient, new = w[k][begin:end], g[k][begin:end], out[k][begin:end]
            for j in range(new.size):
                new[j] = old[j] - rate * (factor * gradient[j])
        first += _blocks(w[k].size)


@compiled(fastmath=frozenset({"reassoc"}))
def _square(block: Any) -> float:
    total = block.dtype.type(0)
    for j in range(block.size):
        total += block[j] * block[j]
    return np.float64(total)


@parallel_job()
def _squares(index: int, count: int, g: Any, sums: Any) -> None:
    number = 0
    blocks = sums.size
    first_block, last_block = blocks * index // count, blocks * (index + 1) // count
    for k in range(len(g)):
        for block in range(0, g[k].size, BLOCK):
            if first_block <= number < last_block:
                sums[number] = _square(g[k][block : block + BLOCK])
            number += 1


def _flat(arrays: Any) -> tuple[Any, ...]:
    # a view of what is contiguous, a copy of what is not
    return tuple([a if a.ndim == 1 and a.flags.c_contiguous else a.reshape(-1) for a in arrays])


def _flat_inputs(arrays: Any) -> tuple[Any, ...]:
    # the same for arrays that are only read
    return tuple([(a if a.flags.carray else contiguous(a)).reshape(-1) for a in arrays])


def _all_blocks(arrays: Any) -> int:
    return sum([-(-a.size // BLOCK) for a in arrays])


def gradient_norm(grads: Any, max_norm: float) -> tuple[Any, Any]:
    """Compute the joint Euclidean norm and its factor; see `capgpu.kernels.reference.gradient_norm`."""
    flat = _flat_inputs(grads)
    total = sum(g.size for g in flat)
    sums = np.empty(_all_blocks(flat))
    POOL.run(POOL.n_threads if total >= WORTH_SHARING else 1, _squares, flat, sums)
    real = flat[0].dtype.type
    norm, limit = real(np.sqrt(sums.sum())), real(max_norm)
    return norm, limit / np.maximum(norm, limit)


def adam_update(params: Any, grads: Any, first: Any, second: Any, settings: Any, scale: Any) -> tuple[Any, Any, Any]:
    """Update all parameters by Adam; see `capgpu.kernels.reference.adam_update`."""
    dtype = params[0].dtype
    out = [np.empty(w.shape, dtype) for w in params]
    total = sum([w.size for w in params])
    n_tasks = POOL.n_threads if total >= WORTH_SHARING else 1
    numbers, factor = settings.astype(dtype), np.array([scale], dtype=dtype)
    m, v = _flat(first), _flat(second)
    inputs = _flat_inputs(params), _flat_inputs(grads)
    POOL.run(n_tasks, _adam, *inputs, m, v, _flat(out), numbers, factor, _all_blocks(params))
    return out, _updated(first, m), _updated(second, v)


def momentum_update(params: Any, grads: Any, velocities: Any, settings: Any, scale: Any) -> tuple[Any, Any]:
    """Update all parameters by momentum; see `capgpu.kernels.reference.momentum_update`."""
    dtype = params[0].dtype
    out = [np.empty(w.shape, dtype) for w in params]
    total = sum([w.size for w in params])
    n_tasks = POOL.n_threads if total >= WORTH_SHARING else 1
    numbers, factor, blocks = settings.astype(dtype), np.array([scale], dtype=dtype), _all_blocks(params)
    inputs = _flat_inputs(params), _flat_inputs(grads)
    if velocities is None:
        POOL.run(n_tasks, _descend, *inputs, _flat(out), numbers, factor, blocks)
        return out, None
    velocity = _flat(velocities)
    POOL.run(n_tasks, _momentum, *inputs, velocity, _flat(out), numbers, factor, blocks)
    return out, _updated(velocities, velocity)


def _updated(arrays: Any, flat: Any) -> list[Any]:
    # what is contiguous has been written into, of what is not a copy
    return [a if a.flags.c_contiguous else f.reshape(a.shape) for a, f in zip(arrays, flat, strict=True)]
