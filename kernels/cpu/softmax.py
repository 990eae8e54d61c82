"""Softmax cross-entropy with its gradient in place of the scores, alone and behind the vocabulary projection.

Behind the projection, rows are taken in blocks whose scores fit `BLOCK_BYTES` of scratch, so that the scores of all
rows are never in memory at once; within a block: scores, loss and gradient in place, then the products for the
hidden states and the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.elementary import exponential
from capgpu.kernels.cpu.handoff import complete, publisher
from capgpu.kernels.cpu.product import product_into
from capgpu.kernels.cpu.team import TEAM, Region
from capgpu.kernels.cpu.workspace import scratch

__all__ = ["linear_cross_entropy", "softmax_cross_entropy"]

#: Scores of one block of rows: enough rows for full speed of the products, at any vocabulary.
BLOCK_BYTES = 32 << 20
#: Below this many scores one thread is faster than two.
WORTH_SHARING = 20_000


@compiled(fastmath=frozenset({"nnan", "nsz"}))
def _greatest(row: Any) -> Any:
    greatest = row[0]
    for j in range(row.size):
        greatest = max(greatest, row[j])
    return greatest


@compiled(fastmath=frozenset({"reassoc"}))
def _total(row: Any) -> Any:
    total = row[0] * 0
    for j in range(row.size):
        total += row[j]
    return total


@compiled()
def _exponentiate(row: Any, shift: Any) -> None:
    for j in range(row.size):
        row[j] = exponential(row[j] - shift)


@compiled()
def _scale(row: Any, factor: Any) -> None:
    for j in range(row.size):
        row[j] *= factor


@compiled()
def _rows(index: int, count: int, scores: Any, targets: Any, scale: float, losses: Any) -> None:
    """Replace a share of the rows of scores by their gradients, and note each row's loss."""
    for m in range(scores.shape[0] * index // count, scores.shape[0] * (index + 1) // count):
        row, target = scores[m], targets[m]
        if target < 0:
            row[:] = 0
            losses[m] = 0.0
            continue
        greatest = _greatest(row)
        true_score = row[target] - greatest
        _exponentiate(row, greatest)
        total = _total(row)
        losses[m] = np.log(np.float64(total)) - true_score
        factor = row.dtype.type(scale / total)
        _scale(row, factor)
        row[target] -= row.dtype.type(scale)


_publish_rows = publisher(_rows)


@compiled()
def _launch_rows(memory: int, ticket: int, count: int, size: int, rounds: int, arguments: Any) -> bool:
    _publish_rows(memory, count, arguments)
    return complete(memory, ticket, size, rounds)


ROWWISE = Region(_rows, _launch_rows)


def _loss_and_gradient(scores: Any, targets: Any, scale: float) -> float:
    losses = np.empty(scores.shape[0])
    members = TEAM.size if scores.size >= WORTH_SHARING else 1
    TEAM.run(members, ROWWISE, scores, targets, scale, losses)
    return float(losses.sum()) * scale


def softmax_cross_entropy(logits: Any, targets: Any, scale: float) -> tuple[Any, Any]:
    """Compute loss and gradient of scores; see `capgpu.kernels.reference.softmax_cross_entropy`."""
    logits = np.ascontiguousarray(logits)
    targets = np.ascontiguousarray(targets, dtype=np.int64)
    loss = _loss_and_gradient(logits, targets, scale)
    return logits.dtype.type(loss), logits


def linear_cross_entropy(
    hidden: Any, W: Any, b: Any, targets: Any, scale: float, gradients: bool = True
) -> tuple[Any, Any, Any, Any]:
    """Compute loss and gradients behind a projection; see `capgpu.kernels.reference.linear_cross_entropy`."""
    hidden, W, b = (np.ascontiguousarray(a) for a in (hidden, W, b))
    targets = np.ascontiguousarray(targets, dtype=np.int64)
    count, size = hidden.shape[0], W.shape[1]
    block = max(1, min(count, BLOCK_BYTES // (size * hidden.itemsize)))
    # equal blocks: a small last one would run its products at poor speed
    block = -(-count // -(-count // block)) if count else 1
    loss = 0.0
    dhidden = np.empty_like(hidden) if gradients else None
    dW = np.zeros_like(W) if gradients and count == 0 else np.empty_like(W) if gradients else None
    db = np.zeros_like(b) if gradients else None
    for start in range(0, count, block):
        rows = hidden[start : start + block]
        scores = scratch("scores", (rows.shape[0], size), hidden.dtype)
        product_into(scores, rows, W, b)
        loss += _loss_and_gradient(scores, targets[start : start + block], scale)
        if dhidden is not None and dW is not None and db is not None:
            product_into(dhidden[start : start + block], scores, W, transpose_b=True)
            product_into(dW, rows, scores, transpose_a=True, accumulate=start > 0)
            db += scores.sum(axis=0)
    return hidden.dtype.type(loss), dhidden, dW, db
