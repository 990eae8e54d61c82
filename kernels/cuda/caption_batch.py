"""The layout of a minibatch of captions, on the device: one array of integers, one copy a step.

`Layout` is the layout on the host. Padded, it has one of few shapes, so that launches made for one batch serve others:

    rows     captions get more steps, behind their end or between, whose target is skipped: they add zeros to every sum
    words    words that occur in no row
    steps    steps at the end without any row
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from capgpu.kernels import host_kernels
from capgpu.kernels.contract import CaptionBatch, RowGroups
from capgpu.kernels.cuda.array_checks import check_device
from capgpu.kernels.cuda.recurrence import Steps
from capgpu.kernels.cuda.workspace import workspace

__all__ = ["Layout", "caption_batch", "lay_out"]

#: Steps of a padded layout come in multiples of this, and rows and words in 16 sizes to the double, multiples of 32.
_STEPS = 4
_SIZES, _LEAST = 16, 32


class Layout(NamedTuple):
    """A minibatch laid out on the host, as `capgpu.kernels.CaptionBatch` describes it; arrays of whole numbers.

    Attributes
    ----------
    batch_sizes : numpy.ndarray, shape (T,)
        Captions active at each step.
    order, words, word_of_row, targets : numpy.ndarray
        As in `CaptionBatch`.
    by_word, starts : numpy.ndarray
        Its `groups`.
    row_numbers : numpy.ndarray, shape (M,) or (0,)
        Number of each row among those of the captions, -1 for a row that was added; empty where the layout is not
        padded.
    """

    batch_sizes: Any
    order: Any
    words: Any
    word_of_row: Any
    targets: Any
    by_word: Any
    starts: Any
    row_numbers: Any

    @property
    def caption_rows(self) -> int:
        """Rows of the captions themselves."""
        return int(self.row_numbers.max()) + 1 if self.row_numbers.size else self.targets.size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Captions, steps, rows and distinct words: what the launches of a step depend on."""
        return self.order.size, self.batch_sizes.size, self.targets.size, self.words.size

    def numbers(self, before: Sequence[Any] = ()) -> Any:
        """Return all numbers, one after the other, as the kernels read them: of int32; behind other arrays."""
        return np.concatenate((*before, *self), dtype=np.int32, casting="same_kind")

    def on_device(self, numbers: Any) -> CaptionBatch:
        """Return the batch whose numbers, one after the other, are in an array of int32 on the device."""
        views, begin = [], 0
        for part in self:
            views.append(numbers[begin : begin + part.size])
            begin += part.size
        sizes, order, words, word_of_row, targets, by_word, starts, row_numbers = views
        steps = Steps(tuple(self.batch_sizes.tolist()), sizes)
        groups = RowGroups(by_word, starts)
        return CaptionBatch(
            steps, order, words, word_of_row, targets, groups, row_numbers if row_numbers.size else None
        )


def _size(count: int) -> int:
    """Round a size up to one of `_SIZES` to the double."""
    unit = max((1 << (count - 1).bit_length()) // (2 * _SIZES), _LEAST)
    return -(-count // unit) * unit


def lay_out(captions: Any, null: int, vocabulary_size: int, *, padded: bool = False) -> Layout:
    """Lay captions out on the host.

    Parameters
    ----------
    captions, null, vocabulary_size
        As for `capgpu.kernels.reference.caption_batch`.
    padded : bool
        Pad a layout that has any row to one of few shapes: with rows behind those of a step, and with the
        first words that do not occur. All captions are then active at the first step. Loss and gradients are the same
        but for rounding: what is added adds zeros to sums, as long as the embeddings of words that do not occur are
        finite. One that is not makes the gradient of Wx one that is not, though the loss is finite.

    Returns
    -------
    Layout
        The layout.

    Raises
    ------
    ValueError
        For an id out of range.
    """
    kernels = host_kernels()
    packed = kernels.pack_captions(captions, null, vocabulary_size)
    order, batch_sizes, words, word_of_row, targets = packed
    if not padded or targets.size == 0:
        by_word, starts = _sorted(word_of_row, words.size)
        return Layout(batch_sizes, order, words, word_of_row, targets, by_word, starts, np.zeros(0, np.int64))
    padded_sizes = _padded_sizes(captions.shape, batch_sizes)
    arrange = _arranged if kernels.name == "cpu" else _arranged_by_numpy
    arranged = arrange(packed[1:], padded_sizes, min(_size(words.size), vocabulary_size), vocabulary_size)
    return Layout(padded_sizes, order, *arranged)


def _sorted(word_of_row: Any, distinct: int) -> tuple[Any, Any]:
    """Return `by_word` and `starts` of a layout."""
    # NumPy sorts 16 bits by counting digits, stable and several times as fast
    keys = word_of_row.astype(np.uint16) if distinct <= 2**16 else word_of_row
    starts = np.zeros(distinct + 1, np.int64)
    np.cumsum(np.bincount(word_of_row, minlength=distinct), out=starts[1:])
    return np.argsort(keys, kind="stable"), starts


def _padded_sizes(shape: tuple[int, int], batch_sizes: Any) -> Any:
    """Return a layout's batch sizes with rows added to the first steps, so that sizes never rise."""
    count, width = shape
    sizes = batch_sizes.tolist()
    rows, steps = sum(sizes), min(-(-len(sizes) // _STEPS) * _STEPS, width - 1)
    missing = min(_size(rows + count - sizes[0]), count * steps) - rows
    padded_sizes = []
    for size in sizes + [0] * (steps - len(sizes)):
        added = min(count - size, missing)
        missing -= added
        padded_sizes.append(size + added)
    return np.array(padded_sizes)


def _arranged(packed: Any, batch_sizes: Any, distinct: int, vocabulary_size: int) -> tuple[Any, ...]:
    """Lay packed captions out with so many rows at each step, and so many words, by compiled code.

    Returns
    -------
    tuple of numpy.ndarray
        `words`, `word_of_row`, `targets`, `by_word`, `starts` and `row_numbers` of the layout.
    """
    from capgpu.kernels.cpu.pack_captions import arrange

    sizes = distinct, *[int(batch_sizes.sum())] * 3, distinct + 1, int(batch_sizes.sum())
    arranged = tuple([np.empty(size, np.int64) for size in sizes])
    arrange(packed, batch_sizes, vocabulary_size, arranged)
    return arranged


def _arranged_by_numpy(packed: Any, batch_sizes: Any, distinct: int, vocabulary_size: int) -> tuple[Any, ...]:
    """Do the same without compiled code."""
    packed_sizes, words, word_of_row, targets = packed
    packed_sizes = np.pad(packed_sizes, (0, batch_sizes.size - packed_sizes.size))
    ends = np.cumsum(packed_sizes)
    behind = ends - packed_sizes - np.cumsum(batch_sizes) + batch_sizes
    row_numbers = np.arange(batch_sizes.sum()) + np.repeat(behind, batch_sizes)
    row_numbers[row_numbers >= np.repeat(ends, batch_sizes)] = -1
    # row -1 is one more at the end, with the first word and without a target
    word_of_row, targets = np.append(word_of_row, 0)[row_numbers], np.append(targets, -1)[row_numbers]
    missing = np.setdiff1d(np.arange(vocabulary_size), words)[: distinct - words.size]
    all_words = np.sort(np.concatenate([words, missing]))
    word_of_row = np.searchsorted(all_words, words)[word_of_row]
    return all_words, word_of_row, targets, *_sorted(word_of_row, distinct), row_numbers


def caption_batch(captions: Any, null: int, vocabulary_size: int, like: Any) -> CaptionBatch:
    """Pack captions; see `capgpu.kernels.reference.caption_batch`. One copy, which is not waited for."""
    check_device(params=like)
    layout, space = lay_out(captions, null, vocabulary_size), workspace()
    numbers = layout.numbers()
    # capacity for every row and word, and all steps and captions
    dev_numbers = space.take("layout", numbers.shape, np.int32, 6 * captions.size)
    if numbers.size:
        space.pinned.send([(dev_numbers, numbers)])
    return layout.on_device(dev_numbers)
