"""The most probable next words: softmax and choice in one pass over each row of scores, which stays in the cache.

Scores are searched in runs; a run whose greatest score is below the least of those chosen so far is skipped as a whole,
as nearly all of them are.
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

__all__ = ["top_words"]

#: Scores in a run.
RUN = 64
#: Below this many scores one thread is faster than two.
WORTH_SHARING = 20_000


@compiled()
def _choose(row: Any, barred: Any, banned: Any, scores: Any, words: Any) -> int:
    """Fill in the greatest scores that may be chosen, falling, and their words; return how many there are."""
    n_chosen, limit = 0, words.size
    for start in range(0, row.size, RUN):
        run = row[start : start + RUN]
        if n_chosen == limit and not greatest(run) > scores[limit - 1]:
            continue
        for j in range(run.size):
            score, word = run[j], start + j
            if not score > (scores[limit - 1] if n_chosen == limit else -np.inf) or barred[word]:
                continue
            allowed = True
            for b in range(banned.size):
                allowed = allowed and banned[b] != word
            if not allowed:
                continue
            n_chosen = min(n_chosen + 1, limit)
            position = n_chosen - 1
            # equal scores stay in the order of their words
            while position > 0 and scores[position - 1] < score:
                scores[position], words[position] = scores[position - 1], words[position - 1]
                position -= 1
            scores[position], words[position] = score, word
    return n_chosen


@parallel_job()
def _rows(index: int, count: int, logits: Any, barred: Any, banned: Any, log_probs: Any, words: Any) -> None:
    rows = logits.shape[0]
    weights = allocate(logits.shape[1], logits)
    for m in range(rows * index // count, rows * (index + 1) // count):
        greatest_score = greatest(logits[m])
        for j in range(weights.size):
            weights[j] = logits[m, j]
        normalizer = np.log(np.float64(exponentiate(weights, greatest_score)))
        chosen = log_probs[m]
        n_chosen = _choose(logits[m], barred, banned[m], chosen, words[m])
        for k in range(n_chosen):
            chosen[k] = np.float64(chosen[k] - greatest_score) - normalizer
        chosen[n_chosen:] = -np.inf
        words[m, n_chosen:] = 0
    release(weights)


def top_words(logits: Any, count: int, barred: Any, banned: Any = None) -> tuple[Any, Any]:
    """Find the most probable words of rows of scores; see `capgpu.kernels.reference.top_words`."""
    logits, barred = contiguous(logits), contiguous(barred)
    rows = logits.shape[0]
    banned = np.empty((rows, 0), np.int32) if banned is None else contiguous(banned, dtype=np.int32)
    log_probs = np.empty((rows, count), logits.dtype)
    words = np.empty((rows, count), np.int32)
    n_tasks = POOL.n_threads if logits.size >= WORTH_SHARING else 1
    POOL.run(n_tasks, _rows, logits, barred, banned, log_probs, words)
    return log_probs, words
