"""The layout of captions in one pass: lengths, a counting sort, packed rows, and the distinct words by a table."""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cpu.compile import compiled

__all__ = ["pack_captions"]


@compiled()
def _pack(captions: Any, null: int, vocabulary_size: int) -> Any:
    count, width = captions.shape
    lengths = np.zeros(count, np.int64)
    ended = np.zeros(width + 1, np.int64)
    present = np.zeros(vocabulary_size, np.int64)
    rows = longest = 0
    valid = True
    for n in range(count):
        for t in range(width):
            word = captions[n, t]
            if word < 0 or word >= vocabulary_size:
                valid = False
            elif t > 0 and word != null:
                lengths[n] = t
        rows += lengths[n]
        longest = max(longest, lengths[n])
        ended[lengths[n]] += 1
    order, batch_sizes = np.empty(count, np.int64), np.empty(longest, np.int64)
    words, word_of_row = np.empty(min(rows, vocabulary_size), np.int64), np.empty(rows, np.int64)
    targets = np.empty(rows, np.int64)
    distinct = 0
    if valid:
        # first place of each length, the longest first
        place, before = np.empty(longest + 1, np.int64), 0
        for length in range(longest, -1, -1):
            place[length] = before
            before += ended[length]
        for n in range(count):
            order[place[lengths[n]]] = n
            place[lengths[n]] += 1
        alive = count
        for step in range(longest):
            alive -= ended[step]
            batch_sizes[step] = alive
        row = 0
        for step in range(longest):
            for rank in range(batch_sizes[step]):
                word, target = captions[order[rank], step], captions[order[rank], step + 1]
                word_of_row[row] = word
                present[word] = 1
                targets[row] = -1 if target == null else target
                row += 1
        for word in range(vocabulary_size):
            if present[word]:
                words[distinct] = word
                present[word] = distinct
                distinct += 1
        for row in range(rows):
            word_of_row[row] = present[word_of_row[row]]
    return valid, order, batch_sizes, words[:distinct], word_of_row, targets


def pack_captions(captions: Any, null: int, vocabulary_size: int) -> tuple[Any, Any, Any, Any, Any] | None:
    """Lay captions out for teacher forcing; see `capgpu.kernels.reference.captions.pack_captions`."""
    valid, *plan = _pack(np.ascontiguousarray(captions, dtype=np.int64), null, vocabulary_size)
    return (plan[0], plan[1], plan[2], plan[3], plan[4]) if valid else None
