"""The layout of captions in one pass: lengths, a counting sort, packed rows, and the distinct words by a table.

The compiled function fills arrays that it is given. Returning arrays, Numba would call a Python function for each; a
signal handler that raises there surfaces as SystemError instead of its exception.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.contract import CaptionBatch, check_word_ids
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.compile_ahead import is_compiled_elsewhere
from capgpu.kernels.cpu.task_memory import allocate, release
from capgpu.kernels.cpu.workspace import contiguous
from capgpu.kernels.reference.pack_captions import pack_captions as pack_with_numpy
from capgpu.kernels.reference.pack_captions import spread_weights

__all__ = ["arrange", "caption_batch", "pack_captions"]


def _layout_arrays(count: int, width: int, vocabulary_size: int) -> Any:
    """Return uninitialized arrays that `_pack` fills, for captions of shape (count, width)."""
    steps = max(width - 1, 0)
    rows = count * steps
    return (
        np.empty(count, np.int64),
        np.empty(steps, np.int64),
        np.empty(min(rows, vocabulary_size), np.int64),
        np.empty(rows, np.int64),
        np.empty(rows, np.int64),
    )


@compiled()
def _pack(captions: Any, null: int, vocabulary_size: int, arrays: Any) -> tuple[bool, int, int, int]:
    """Fill `arrays` with the layout of captions; return whether all words are valid, and the layout's sizes.

    The arrays are those of `_layout_arrays`: order, batch sizes, words, word of each row, target of each row. Their
    sizes are the number of steps, of distinct words and of rows.
    """
    order, batch_sizes, words, word_of_row, targets = arrays
    count, width = captions.shape
    scratch = allocate(count + 2 * (width + 1) + vocabulary_size, captions)
    for k in range(scratch.size):
        scratch[k] = 0
    lengths, ended = scratch[:count], scratch[count : count + width + 1]
    next_position, number = scratch[count + width + 1 : count + 2 * (width + 1)], scratch[count + 2 * (width + 1) :]
    n_rows = longest = 0
    valid = True
    for n in range(count):
        for t in range(width):
            word = captions[n, t]
            if word < 0 or word >= vocabulary_size:
                valid = False
            elif t > 0 and word != null:
                lengths[n] = t
        n_rows += lengths[n]
        longest = max(longest, lengths[n])
        ended[lengths[n]] += 1
    n_distinct = 0
    if valid:
        # first position of each length, the longest first
        n_longer = 0
        for length in range(longest, -1, -1):
            next_position[length] = n_longer
            n_longer += ended[length]
        for n in range(count):
            order[next_position[lengths[n]]] = n
            next_position[lengths[n]] += 1
        n_active = count
        for step in range(longest):
            n_active -= ended[step]
            batch_sizes[step] = n_active
        row = 0
        for step in range(longest):
            for rank in range(batch_sizes[step]):
                word, target = captions[order[rank], step], captions[order[rank], step + 1]
                word_of_row[row] = word
                number[word] = 1
                targets[row] = -1 if target == null else target
                row += 1
        for word in range(vocabulary_size):
            if number[word]:
                words[n_distinct] = word
                number[word] = n_distinct
                n_distinct += 1
        for row in range(n_rows):
            word_of_row[row] = number[word_of_row[row]]
    release(scratch)
    return valid, longest, n_distinct, n_rows


def pack_captions(captions: Any, null: int, vocabulary_size: int) -> tuple[Any, Any, Any, Any, Any]:
    """Lay captions out for teacher forcing; see `capgpu.kernels.reference.pack_captions`."""
    ids = contiguous(captions, dtype=np.int64)
    arrays = _layout_arrays(ids.shape[0], ids.shape[1], vocabulary_size)
    if is_compiled_elsewhere(_pack, ids, null, vocabulary_size, arrays):
        return pack_with_numpy(captions, null, vocabulary_size)
    valid, steps, distinct, rows = _pack(ids, null, vocabulary_size, arrays)
    if not valid:
        check_word_ids(captions, vocabulary_size)
    order, batch_sizes, words, word_of_row, targets = arrays
    return order, batch_sizes[:steps], words[:distinct], word_of_row[:rows], targets[:rows]


def caption_batch(captions: Any, null: int, vocabulary_size: int, like: Any, weights: Any = None) -> CaptionBatch:
    """Pack captions; see `capgpu.kernels.reference.caption_batch`. The batch is on the host, as `like` is."""
    order, batch_sizes, words, word_of_row, targets = pack_captions(captions, null, vocabulary_size)
    row_weights = None if weights is None else spread_weights(weights, order, batch_sizes, like)
    return CaptionBatch(batch_sizes, order, words, word_of_row, targets, row_weights=row_weights)


@compiled()
def arrange(packed: Any, batch_sizes: Any, vocabulary_size: int, arranged: Any) -> None:
    """Fill `arranged` with the layout for a device, see `capgpu.kernels.cuda.caption_batch.Layout`; in one pass.

    Parameters
    ----------
    packed : tuple of numpy.ndarray of int64
        From `pack_captions`: batch sizes, words, word of each row, target of each row.
    batch_sizes : numpy.ndarray of int64
        Those wanted, none of them below its own: a step gets rows behind its own, with the first word and no target.
    vocabulary_size : int
        Words that do not occur are the first that are missing.
    arranged : tuple of numpy.ndarray of int64
        Written: words, word of each row, target of each row, rows by word, where each word's rows begin, row numbers.
    """
    own_sizes, own_words, own_word_of_row, own_targets = packed
    words, word_of_row, targets, by_word, starts, row_numbers = arranged
    number = allocate(vocabulary_size, words)
    for word in range(vocabulary_size):
        number[word] = -1
    for word in own_words:
        number[word] = 0
    n_missing = words.size - own_words.size
    distinct = 0
    for word in range(vocabulary_size):
        if number[word] < 0 and n_missing > 0:
            number[word] = 0
            n_missing -= 1
        if number[word] == 0:
            words[distinct] = word
            number[word] = distinct
            distinct += 1
    starts[:] = 0
    row = own_row = 0
    for step in range(batch_sizes.size):
        own_size = own_sizes[step] if step < own_sizes.size else 0
        for rank in range(batch_sizes[step]):
            has_own_row = rank < own_size
            word_of_row[row] = number[own_words[own_word_of_row[own_row] if has_own_row else 0]]
            targets[row] = own_targets[own_row] if has_own_row else -1
            row_numbers[row] = own_row if has_own_row else -1
            starts[word_of_row[row] + 1] += 1
            own_row += has_own_row
            row += 1
    for word in range(words.size):
        starts[word + 1] += starts[word]
    next_position = number[: words.size]
    for word in range(words.size):
        next_position[word] = starts[word]
    for row in range(word_of_row.size):
        word = word_of_row[row]
        by_word[next_position[word]] = row
        next_position[word] += 1
    release(number)
