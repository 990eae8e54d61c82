"""Random next words: softmax, and the inversion of its cumulative sum, row by row, in the cache.

    p = log softmax(scores);  w = exp((scores - greatest allowed score) / temperature), 0 for words left out
    the word is the first whose cumulative sum of w is above number * sum(w)

At a temperature of 1, with the greatest score allowed, the exponentials of the softmax are the weights.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.softmax import exponentiate, greatest
from capgpu.kernels.cpu.task_memory import allocate, release
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous

__all__ = ["draw_words"]

#: Below this many scores one thread is faster than two.
WORTH_SHARING = 20_000


@compiled()
def _leave_out(barred: Any, banned: Any, source: Any, value: Any, target: Any) -> None:
    """Copy a row, but write `value` for the words that are left out. `target` may be `source`."""
    for j in range(target.size):
        target[j] = value if barred[j] else source[j]
    for b in range(banned.size):
        target[banned[b]] = value


@compiled()
def _draw(weights: Any, number: Any) -> int:
    """Return the first word whose cumulative sum exceeds `number` times the sum of all; 0 where there is none."""
    total = weights.dtype.type(0)
    for j in range(weights.size):
        total += weights[j]
    limit, reached = number * total, weights.dtype.type(0)
    for j in range(weights.size):
        reached += weights[j]
        if reached > limit and weights[j] > 0:
            return j
    return 0


@parallel_job()
def _rows(
    index: int,
    count: int,
    logits: Any,
    numbers: Any,
    temperature: float,
    barred: Any,
    banned: Any,
    log_probs: Any,
    words: Any,
) -> None:
    rows, zero = logits.shape[0], logits.dtype.type(0)
    weights = allocate(logits.shape[1], logits)
    for m in range(rows * index // count, rows * (index + 1) // count):
        row = logits[m]
        _leave_out(barred, banned[m], row, -logits.dtype.type(np.inf), weights)
        greatest_score, shift = greatest(row), greatest(weights)
        for j in range(row.size):
            weights[j] = row[j]
        normalizer = np.log(np.float64(exponentiate(weights, greatest_score)))
        if shift != greatest_score or temperature != 1.0:
            factor = row.dtype.type(1 / temperature)
            for j in range(row.size):
                weights[j] = (row[j] - shift) * factor
            exponentiate(weights, zero)
        _leave_out(barred, banned[m], weights, zero, weights)
        word = _draw(weights, numbers[m])
        words[m] = word
        log_probs[m] = np.float64(row[word] - greatest_score) - normalizer
    release(weights)


def draw_words(logits: Any, numbers: Any, temperature: float, barred: Any, banned: Any = None) -> tuple[Any, Any]:
    """Draw a word of each row of scores; see `capgpu.kernels.reference.draw_words`."""
    logits, barred = contiguous(logits), contiguous(barred)
    numbers = contiguous(numbers, dtype=logits.dtype)
    rows = logits.shape[0]
    banned = np.empty((rows, 0), np.int32) if banned is None else contiguous(banned, dtype=np.int32)
    log_probs, words = np.empty(rows, logits.dtype), np.empty(rows, np.int32)
    n_tasks = POOL.n_threads if logits.size >= WORTH_SHARING else 1
    POOL.run(n_tasks, _rows, logits, numbers, float(temperature), barred, banned, log_probs, words)
    return log_probs, words
