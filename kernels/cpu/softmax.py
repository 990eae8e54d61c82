"""Softmax cross-entropy with its gradient in place of the scores, alone and behind the vocabulary projection.

Behind the projection, rows are taken in blocks whose scores fit `BLOCK_BYTES` of scratch, so that the scores of all
rows are never in memory at once; within a block: scores, loss and gradient in place, then the products for the
hidden states and the weights. Dropout is applied to a block of hidden states, and to their gradient, beside the block's
products.

    loss = log sum exp(s) - (1 - smoothing) s[target] - smoothing mean(s);  ds = softmax(s) - its labels

Both are multiplied by the row's weight, if there are weights. The mean is that of the differences from the greatest
score, summed in the loop that exponentiates them.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from capgpu.kernels.contract import Dropout, Precision, check_precision
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.dropout import drop_in_place, drop_into, mask_rows, rule_of
from capgpu.kernels.cpu.embedding import column_sums
from capgpu.kernels.cpu.fast_math import exponential, maximum
from capgpu.kernels.cpu.gemm import product_into
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.simd_pack import LONG, whole_vectors
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous, scratch

__all__ = ["exponentiate", "greatest", "linear_cross_entropy", "softmax_cross_entropy"]

#: Scores of one block of rows: enough rows for full speed of the products, at any vocabulary.
BLOCK_BYTES = 18 << 20
#: Below this many scores one thread is faster than two.
WORTH_SHARING = 20_000

#: What stands for no weights.
_UNWEIGHTED = np.empty(0)


@compiled()
def greatest(row: Any) -> Any:
    """Return the greatest entry."""
    result = row[0]
    for j in range(row.size):
        result = maximum(result, row[j])
    return result


@compiled(fastmath=frozenset({"reassoc"}), inline=True)
def _exponentiate(row: Any, shift: Any) -> Any:
    total = sum_of_differences = row.dtype.type(0)
    for j in range(row.size):
        difference = row[j] - shift
        value = exponential(difference)
        row[j] = value
        total += value
        sum_of_differences += difference
    return total, sum_of_differences


@compiled(fastmath=frozenset({"reassoc"}))
def _exponentiate_long(row: Any, shift: Any) -> Any:
    whole_vectors()
    total, _ = _exponentiate(row, shift)
    return total


@compiled(fastmath=frozenset({"reassoc"}))
def _exponentiate_short(row: Any, shift: Any) -> Any:
    total, _ = _exponentiate(row, shift)
    return total


@compiled(fastmath=frozenset({"reassoc"}))
def _exponentiate_and_sum_long(row: Any, shift: Any) -> Any:
    whole_vectors()
    return _exponentiate(row, shift)


@compiled(fastmath=frozenset({"reassoc"}))
def _exponentiate_and_sum_short(row: Any, shift: Any) -> Any:
    return _exponentiate(row, shift)


@compiled()
def exponentiate(row: Any, shift: Any) -> Any:
    """Replace a row by ``exp(row - shift)`` and return the sum."""
    return _exponentiate_short(row, shift) if row.size < LONG else _exponentiate_long(row, shift)


@compiled()
def _exponentiate_and_sum(row: Any, shift: Any) -> Any:
    """Do what `exponentiate` does, and return also the sum of ``row - shift``."""
    return _exponentiate_and_sum_short(row, shift) if row.size < LONG else _exponentiate_and_sum_long(row, shift)


@compiled()
def _scale(row: Any, factor: Any, offset: Any) -> None:
    for j in range(row.size):
        row[j] = row[j] * factor - offset


@parallel_job()
def _rows(
    index: int, count: int, scores: Any, targets: Any, weights: Any, scale: float, smoothing: float, losses: Any
) -> None:
    """Replace a task's rows of scores by their gradients, and write each row's loss; without weights all are 1."""
    rows = scores.shape[0]
    label = smoothing / max(scores.shape[1], 1)
    for m in range(rows * index // count, rows * (index + 1) // count):
        row, target = scores[m], targets[m]
        weight = weights[m] if weights.size > 0 else 1.0
        if target < 0 or weight == 0:
            row[:] = 0
            losses[m] = 0.0
            continue
        greatest_score, score = greatest(row), row[target]
        if smoothing > 0:
            total, differences = _exponentiate_and_sum(row, greatest_score)
            loss = np.log(np.float64(total)) - (1 - smoothing) * np.float64(score - greatest_score)
            loss = loss - label * np.float64(differences)
        else:
            total = exponentiate(row, greatest_score)
            loss = np.log(np.float64(total)) - np.float64(score - greatest_score)
        losses[m] = loss * weight
        factor = scale * weight
        _scale(row, row.dtype.type(factor / total), row.dtype.type(factor * label))
        row[target] -= row.dtype.type(factor * (1 - smoothing))


def _loss_and_gradient(scores: Any, targets: Any, weights: Any, scale: float, smoothing: float) -> float:
    losses = np.empty(scores.shape[0])
    n_tasks = POOL.n_threads if scores.size >= WORTH_SHARING else 1
    POOL.run(n_tasks, _rows, scores, targets, weights, scale, float(smoothing), losses)
    return float(losses.sum()) * scale


def softmax_cross_entropy(logits: Any, targets: Any, scale: float) -> tuple[Any, Any]:
    """Compute loss and gradient of scores; see `capgpu.kernels.reference.softmax_cross_entropy`."""
    logits = np.ascontiguousarray(logits)
    if not logits.flags.writeable:  # the gradient is written into it
        logits = logits.copy()
    targets = contiguous(targets, dtype=np.int64)
    loss = _loss_and_gradient(logits, targets, _UNWEIGHTED, scale, 0.0)
    return logits.dtype.type(loss), logits


def linear_cross_entropy(
    hidden: Any,
    W: Any,
    b: Any,
    targets: Any,
    scale: float,
    gradients: bool = True,
    smoothing: float = 0.0,
    dropout: Dropout | None = None,
    precision: Precision = "float32",
    row_weights: Any = None,
) -> tuple[Any, Any, Any, Any]:
    """Compute loss and gradients behind a projection; see `capgpu.kernels.reference.linear_cross_entropy`."""
    check_precision(precision, hidden.dtype)
    multiply = partial(product_into, precision=precision)
    # of tied weights, W is the transpose of a matrix, which is read, and whose gradient is made, as it lies
    transposed = not W.flags.c_contiguous and W.flags.f_contiguous
    hidden, W, b = (contiguous(a) for a in (hidden, W.T if transposed else W, b))
    targets = contiguous(targets, dtype=np.int64)
    weights = _UNWEIGHTED if row_weights is None else contiguous(row_weights, dtype=np.float64)
    count, size = hidden.shape[0], b.size
    block = max(1, min(count, BLOCK_BYTES // (size * hidden.itemsize)))
    # equal blocks: a small last one would run its products at poor speed
    block = -(-count // -(-count // block)) if count else 1
    loss = 0.0
    dhidden = np.empty_like(hidden) if gradients else None
    joint, dW, db = False, None, None
    if gradients:
        allocate = np.empty if count else np.zeros
        # the bias's gradient is one row more of the product that makes the weights', unless that is transposed, or
        # would round what is summed
        joint = not transposed and precision == "float32"
        dW = allocate((size, hidden.shape[1]) if transposed else (hidden.shape[1] + joint, size), dtype=W.dtype)
        db = dW[-1] if joint else allocate(size, dtype=W.dtype)
    memory = scratch("scores", (block, size), hidden.dtype)
    rule = None if dropout is None else rule_of(dropout, hidden.size)
    numbers = None if dropout is None else mask_rows(dropout, count)
    dropped_hidden = (
        None if dropout is None else scratch("hidden states after dropout", (block, hidden.shape[1]), hidden.dtype)
    )
    for start in range(0, count, block):
        rows = hidden[start : start + block]
        scores = memory[: rows.shape[0]]
        if rule is not None and numbers is not None and dropped_hidden is not None:
            drop_into(rows, numbers[start : start + block], rule, dropped_hidden[: rows.shape[0]])
            rows = dropped_hidden[: rows.shape[0]]
        multiply(scores, rows, W, b, transpose_b=transposed)
        part = slice(start, start + block)
        loss += _loss_and_gradient(scores, targets[part], weights[part], scale, smoothing)
        if dhidden is None or dW is None or db is None:
            continue
        drows = dhidden[start : start + block]
        multiply(drows, scores, W, transpose_b=not transposed)
        if rule is not None and numbers is not None:
            drop_in_place(drows, numbers[start : start + block], rule)
        factors = (scores, rows) if transposed else (rows, scores)
        multiply(dW, *factors, transpose_a=True, accumulate=start > 0)
        if joint:
            continue
        if start == 0:
            db[:] = column_sums(scores)
        else:
            db += column_sums(scores)
    if dW is not None:
        dW = dW.T if transposed else dW[: hidden.shape[1]]
    return hidden.dtype.type(loss), dhidden, dW, db
