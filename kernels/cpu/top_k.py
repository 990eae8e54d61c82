"""The most probable next words: softmax and choice in one pass over each row of scores, which stays in the cache.

Scores are looked through in runs; a run whose greatest score is below the least of those chosen so far is passed over
as a whole, and that are nearly all of them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.job_slot import run_job
from capgpu.kernels.cpu.softmax import exponentiate, greatest
from capgpu.kernels.cpu.task_code import describe_job
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous

__all__ = ["top_words"]

#: Scores in a run.
RUN = 64
#: Below this many scores one thread is faster than two.
WORTH_SHARING = 20_000


@compiled(allocates=False)
def _choose(row: Any, barred: Any, banned: Any, scores: Any, words: Any) -> int:
    """Fill in the greatest scores that may be chosen, falling, and their words; return how many there are."""
    found, wanted = 0, words.size
    for start in range(0, row.size, RUN):
        run = row[start : start + RUN]
        if found == wanted and not greatest(run) > scores[wanted - 1]:
            continue
        for j in range(run.size):
            score, word = run[j], start + j
            if not score > (scores[wanted - 1] if found == wanted else -np.inf) or barred[word]:
                continue
            allowed = True
            for b in range(banned.size):
                allowed = allowed and banned[b] != word
            if not allowed:
                continue
            found = min(found + 1, wanted)
            place = found - 1
            # equal scores stay in the order of their words
            while place > 0 and scores[place - 1] < score:
                scores[place], words[place] = scores[place - 1], words[place - 1]
                place -= 1
            scores[place], words[place] = score, word
    return found


@compiled()
def _rows(index: int, count: int, logits: Any, barred: Any, banned: Any, log_probs: Any, words: Any) -> None:
    rows = logits.shape[0]
    weights = np.empty(logits.shape[1], logits.dtype)
    for m in range(rows * index // count, rows * (index + 1) // count):
        top = greatest(logits[m])
        for j in range(weights.size):
            weights[j] = logits[m, j]
        normaliser = np.log(np.float64(exponentiate(weights, top)))
        own = log_probs[m]
        found = _choose(logits[m], barred, banned[m], own, words[m])
        for k in range(found):
            own[k] = np.float64(own[k] - top) - normaliser
        own[found:] = -np.inf
        words[m, found:] = 0


_describe_rows = describe_job(_rows)


@compiled()
def _launch_rows(slot: int, n_tasks: int, arguments: Any) -> bool:
    return run_job(slot, n_tasks, _describe_rows(arguments))


def top_words(logits: Any, count: int, barred: Any, banned: Any = None) -> tuple[Any, Any]:
    """Find the most probable words of rows of scores; see `capgpu.kernels.reference.top_words`."""
    logits, barred = contiguous(logits), contiguous(barred)
    rows = logits.shape[0]
    banned = np.empty((rows, 0), np.int32) if banned is None else contiguous(banned, dtype=np.int32)
    log_probs = np.empty((rows, count), logits.dtype)
    words = np.empty((rows, count), np.int32)
    n_tasks = POOL.n_threads if logits.size >= WORTH_SHARING else 1
    POOL.run(n_tasks, _launch_rows, logits, barred, banned, log_probs, words)
    return log_probs, words
