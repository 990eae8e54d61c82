"""Inverted dropout: a mask that is a pure function of a key and of each element's position, computed where it is used.

    hash(b):  b = (b ^ b >> 16) * 0x7feb352d;  b = (b ^ b >> 15) * 0x846ca68b;  b ^ b >> 16       (32 bits, "lowbias32")
    mask[i] = hash(hash(i ^ first) ^ second) >= threshold ? factor : 0

This is the mask of `capgpu.random.dropout_mask` bit by bit, and a product with it is rounded once, as there. A mask is
not stored: the backward pass computes it again, which takes 0.5 ns an element on a thread (float32, AVX2; a product
with a mask in memory takes 0.15 ns, and the mask four bytes an element).

A rule is the tuple (first, second, threshold, factor) of `capgpu.random.mask_rule`.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from capgpu.kernels.contract import Dropout
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous
from capgpu.random import mask_rule

__all__ = ["apply_dropout", "drop_in_place", "drop_into", "mask_rows", "rule_of"]

#: Below this many elements one thread is faster than two.
WORTH_SHARING = 50_000

I32 = ir.IntType(32)


def rule_of(dropout: Dropout, count: int) -> tuple[int, int, int, float]:
    """Return the rule for an array of `count` elements, as compiled code takes it."""
    size = count if dropout.size is None else dropout.size
    first, second, threshold, factor = mask_rule(dropout.key, dropout.rate, size)
    return first, second, threshold, factor


def mask_rows(dropout: Dropout, count: int) -> Any:
    """Return the row of the mask for each of the `count` rows of an array."""
    return np.arange(count) if dropout.rows is None else contiguous(dropout.rows, np.int64)


@intrinsic
def _is_kept(typingctx: Any, position: Any, j: Any, first: Any, second: Any, threshold: Any) -> Any:
    """Return whether element ``position + j`` is kept: 32-bit arithmetic, for which Numba would use 64 bits."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        position, j, first, second, threshold = (builder.trunc(word, I32) for word in args)
        bits = builder.add(position, j)
        for word in (first, second):
            bits = builder.xor(bits, word)
            for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
                bits = builder.mul(builder.xor(bits, builder.lshr(bits, I32(shift))), I32(factor))
            bits = builder.xor(bits, builder.lshr(bits, I32(16)))
        return builder.icmp_unsigned(">=", bits, threshold)

    return types.boolean(*[types.int64] * 5), generate


@compiled()
def _masked(source: Any, position: int, rule: Any, target: Any) -> None:
    """Write a row times its part of a mask, which begins at the mask's element `position`."""
    first, second, threshold = rule[:3]
    factor, zero = source.dtype.type(rule[3]), source.dtype.type(0)
    for j in range(source.size):
        target[j] = source[j] * (factor if _is_kept(position, j, first, second, threshold) else zero)


@compiled()
def _mask(row: Any, position: int, rule: Any) -> None:
    """Do what `_masked` does in place: where source and target may be the same, its loop would not vectorize."""
    first, second, threshold = rule[:3]
    factor, zero = row.dtype.type(rule[3]), row.dtype.type(0)
    for j in range(row.size):
        row[j] *= factor if _is_kept(position, j, first, second, threshold) else zero


@parallel_job()
def _drop_rows(index: int, count: int, rows: Any, numbers: Any, rule: Any) -> None:
    """Multiply a task's rows by the rows of the mask that have these numbers."""
    m, width = rows.shape
    for k in range(m * index // count, m * (index + 1) // count):
        _mask(rows[k], numbers[k] * width, rule)


@parallel_job()
def _drop_rows_into(index: int, count: int, rows: Any, numbers: Any, rule: Any, out: Any) -> None:
    """Write what `_drop_rows` makes of a task's rows to another array."""
    m, width = rows.shape
    for k in range(m * index // count, m * (index + 1) // count):
        _masked(rows[k], numbers[k] * width, rule, out[k])


def drop_in_place(rows: Any, numbers: Any, rule: tuple[int, int, int, float]) -> None:
    """Multiply contiguous rows by the rows of the mask that have these numbers."""
    POOL.run(POOL.n_threads if rows.size >= WORTH_SHARING else 1, _drop_rows, rows, numbers, rule)


def drop_into(rows: Any, numbers: Any, rule: tuple[int, int, int, float], out: Any) -> None:
    """Write what `drop_in_place` makes of the rows to another array."""
    POOL.run(POOL.n_threads if rows.size >= WORTH_SHARING else 1, _drop_rows_into, rows, numbers, rule, out)


def apply_dropout(array: Any, dropout: Dropout) -> Any:
    """Multiply an array by a dropout mask; see `capgpu.kernels.reference.apply_dropout`."""
    array = contiguous(array)
    out = np.empty_like(array)
    drop_into(array, mask_rows(dropout, array.shape[0]), rule_of(dropout, array.size), out)
    return out
