"""The layout of a minibatch of captions on the device: one array of integers, copied once per step.

`Layout` is the layout on the host. A padded layout has one of few shapes, so that a captured graph serves many batches.
It has additional

    rows     steps of captions after or between their own, with a masked target, which add zeros to every sum
    words    words that occur in no row
    steps    steps at the end without any row
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from capgpu.kernels import host_kernels
from capgpu.kernels.contract import CaptionBatch, RowGroups
from capgpu.kernels.cuda.array_checks import check_device
from capgpu.kernels.cuda.recurrence import Steps
from capgpu.kernels.cuda.workspace import workspace
from capgpu.kernels.reference.pack_captions import spread_weights

__all__ = ["Layout", "caption_batch", "lay_out"]

#: Steps of a padded layout are rounded up to a multiple of this.
_STEPS_MULTIPLE = 4
#: Rows and words are rounded up to one of 16 sizes between powers of two, and to a multiple of 32.
_SIZES_PER_DOUBLING, _MIN_SIZE_STEP = 16, 32


class Layout(NamedTuple):
    """The layout of a minibatch on the host, as `capgpu.kernels.CaptionBatch` describes it; integer arrays.

    Attributes
    ----------
    batch_sizes : numpy.ndarray, shape (T,)
        Captions active at each step.
    order, words, word_of_row, targets : numpy.ndarray
        As in `CaptionBatch`.
    by_word, starts : numpy.ndarray
        Its `groups`.
    row_numbers : numpy.ndarray, shape (M,) or (0,)
        Index of each row among the captions' own rows, -1 for a padding row; empty if the layout is not padded.
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
        """Number of rows without padding rows."""
        return int(self.row_numbers.max()) + 1 if self.row_numbers.size else self.targets.size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Numbers of captions, steps, rows and distinct words, on which the launches of a step depend."""
        return self.order.size, self.batch_sizes.size, self.targets.size, self.words.size

    def numbers(self, prefix: Sequence[Any] = ()) -> Any:
        """Return `prefix` and all arrays of the layout, concatenated, as int32."""
        return np.concatenate((*prefix, *self), dtype=np.int32, casting="same_kind")

    def on_device(self, numbers: Any) -> CaptionBatch:
        """Return the batch as views of `numbers`, the concatenated arrays on the device."""
        views, start = [], 0
        for array in self:
            views.append(numbers[start : start + array.size])
            start += array.size
        sizes, order, words, word_of_row, targets, by_word, starts, row_numbers = views
        steps = Steps(tuple(self.batch_sizes.tolist()), sizes)
        groups = RowGroups(by_word, starts)
        return CaptionBatch(
            steps, order, words, word_of_row, targets, groups, row_numbers if row_numbers.size else None
        )


def _size(count: int) -> int:
    """Round a size up to one of `_SIZES_PER_DOUBLING` sizes between powers of two."""
    step = max((1 << (count - 1).bit_length()) // (2 * _SIZES_PER_DOUBLING), _MIN_SIZE_STEP)
    return -(-count // step) * step


def lay_out(captions: Any, null: int, vocabulary_size: int, *, padded: bool = False) -> Layout:
    """Lay captions out on the host.

    Parameters
    ----------
    captions, null, vocabulary_size
        As for `capgpu.kernels.reference.caption_batch`.
    padded : bool
        Pad a layout with at least one row to one of few shapes, by rows after those of a step and by the first words
        that do not occur. All captions are then active at the first step. Loss and gradients are the same except for
        rounding, since padding adds zeros to sums. An embedding that is not finite makes the gradient of Wx nonfinite
        even if it belongs to a padding word, while the loss stays finite.

    Returns
    -------
    Layout
        The layout.

    Raises
    ------
    ValueError
        If an id is out of range.
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
    # NumPy sorts 16-bit keys by a radix sort, which is stable and several times as fast
    keys = word_of_row.astype(np.uint16) if distinct <= 2**16 else word_of_row
    starts = np.zeros(distinct + 1, np.int64)
    np.cumsum(np.bincount(word_of_row, minlength=distinct), out=starts[1:])
    return np.argsort(keys, kind="stable"), starts


def _padded_sizes(shape: tuple[int, int], batch_sizes: Any) -> Any:
    """Return batch sizes with padding rows added to the first steps, so that they are non-increasing."""
    captions, width = shape
    sizes = batch_sizes.tolist()
    rows, steps = sum(sizes), min(-(-len(sizes) // _STEPS_MULTIPLE) * _STEPS_MULTIPLE, width - 1)
    remaining = min(_size(rows + captions - sizes[0]), captions * steps) - rows
    padded_sizes = []
    for size in sizes + [0] * (steps - len(sizes)):
        added = min(captions - size, remaining)
        remaining -= added
        padded_sizes.append(size + added)
    return np.array(padded_sizes)


def _arranged(packed: Any, batch_sizes: Any, distinct: int, vocabulary_size: int) -> tuple[Any, ...]:
    """Lay packed captions out with the padded batch sizes and `distinct` words, by compiled code.

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
    """Do the same as `_arranged` in NumPy."""
    packed_sizes, words, word_of_row, targets = packed
    packed_sizes = np.pad(packed_sizes, (0, batch_sizes.size - packed_sizes.size))
    ends = np.cumsum(packed_sizes)
    offsets = ends - packed_sizes - np.cumsum(batch_sizes) + batch_sizes
    row_numbers = np.arange(batch_sizes.sum()) + np.repeat(offsets, batch_sizes)
    row_numbers[row_numbers >= np.repeat(ends, batch_sizes)] = -1
    # index -1 refers to an additional last row, with the first word and a masked target
    word_of_row, targets = np.append(word_of_row, 0)[row_numbers], np.append(targets, -1)[row_numbers]
    padding_words = np.setdiff1d(np.arange(vocabulary_size), words)[: distinct - words.size]
    padded_words = np.sort(np.concatenate([words, padding_words]))
    word_of_row = np.searchsorted(padded_words, words)[word_of_row]
    return padded_words, word_of_row, targets, *_sorted(word_of_row, distinct), row_numbers


def caption_batch(captions: Any, null: int, vocabulary_size: int, like: Any, weights: Any = None) -> CaptionBatch:
    """Pack captions; see `capgpu.kernels.reference.caption_batch`. One asynchronous copy, and one of the weights."""
    check_device(params=like)
    layout, space = lay_out(captions, null, vocabulary_size), workspace()
    numbers = layout.numbers()
    # capacity for every row and word, and all steps and captions
    dev_numbers = space.take("layout", numbers.shape, np.int32, 6 * captions.size)
    if numbers.size:
        space.pinned.send([(dev_numbers, numbers)])
    batch = layout.on_device(dev_numbers)
    if weights is None:
        return batch
    return replace(batch, row_weights=spread_weights(weights, layout.order, layout.batch_sizes, like))
