"""The layout of a minibatch of captions, on the device: one array of integers, one copy a step.

`Layout` is the layout on the host. Padded, it has one of few shapes, so that launches made for one batch serve others:

    rows     captions get more steps, behind their end or between, whose target is left out: they add zeros to every sum
    words    words that occur in no row
    steps    steps at the end without any row
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from capgpu.kernels import host_kernels
from capgpu.kernels.cuda.module import record
from capgpu.kernels.cuda.recurrence import Steps

__all__ = ["Layout", "Plan", "lay_out", "plan_captions"]

#: Steps of a padded layout come in multiples of this, and rows and words in 16 sizes to the double, multiples of 32.
_STEPS = 4
_SIZES, _LEAST = 16, 32
_NO_NUMBERS = np.zeros(0, np.int64)


@dataclass(frozen=True)
class Plan:
    """A minibatch laid out, as `capgpu.kernels.reference.captions.pack_captions` does it, on the device.

    Attributes
    ----------
    rows, distinct : int
        M packed rows, U distinct input words.
    steps : Steps
        Captions alive at each step, on both sides.
    order : array of int32, shape (N,)
        Caption at each rank.
    words, word_of_row, targets : array of int32, shape (U,), (M,), (M,)
        As `pack_captions` gives them.
    by_word : array of int32, shape (M,)
        Packed rows, those of the same word together, in their order.
    starts : array of int32, shape (U + 1,)
        Where each word's rows begin in `by_word`.
    row_numbers : array of int32, shape (M,), or None
        As in `Layout`; None where the layout is not padded.
    """

    rows: int
    distinct: int
    steps: Steps
    order: Any
    words: Any
    word_of_row: Any
    targets: Any
    by_word: Any
    starts: Any
    row_numbers: Any = None

    @staticmethod
    def of(layout: Layout, there: Any) -> Plan:
        """Return the plan of a layout whose numbers, one after the other, are in an array of int32 on the device."""
        views, begin = [], 0
        for part in layout:
            views.append(there[begin : begin + part.size])
            begin += part.size
        sizes, *others, row_numbers = views
        steps = Steps(tuple(layout.batch_sizes.tolist()), sizes)
        numbers = row_numbers if row_numbers.size else None
        return Plan(layout.targets.size, layout.words.size, steps, *others, numbers)


class Layout(NamedTuple):
    """A minibatch laid out on the host, as `Plan` describes it; arrays of whole numbers.

    Attributes
    ----------
    batch_sizes : numpy.ndarray, shape (T,)
        Captions alive at each step.
    order, words, word_of_row, targets, by_word, starts : numpy.ndarray
        As in `Plan`.
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

    def numbers(self) -> Any:
        """Return all numbers, one after the other, as the kernels read them: of int32."""
        return np.concatenate(self, dtype=np.int32, casting="same_kind")


def _size(count: int) -> int:
    """Round a size up to one of `_SIZES` to the double."""
    unit = max((1 << (count - 1).bit_length()) // (2 * _SIZES), _LEAST)
    return -(-count // unit) * unit


def lay_out(captions: Any, null: int, vocabulary_size: int, *, padded: bool = False) -> Layout | None:
    """Lay captions out on the host.

    Parameters
    ----------
    captions, null, vocabulary_size
        As for `plan_captions`.
    padded : bool
        True gives the layout one of few shapes, where there is any row. All captions are then alive at the first step.
        Loss and gradients are the same but for rounding: what is added adds zeros to sums.

    Returns
    -------
    Layout or None
        None where an id is out of range.
    """
    packed = host_kernels().pack_captions(captions, null, vocabulary_size)
    if packed is None:
        return None
    order, batch_sizes, words, word_of_row, targets = packed
    row_numbers = _NO_NUMBERS
    if padded and targets.size:
        batch_sizes, row_numbers = _with_rows(captions, batch_sizes)
        added = row_numbers < 0
        # the word of the first row, and no target
        word_of_row, targets = word_of_row[row_numbers], targets[row_numbers]
        word_of_row[added], targets[added] = 0, -1
        words, word_of_row = _with_words(words, word_of_row, vocabulary_size)
    # NumPy sorts 16 bits by counting digits, stable and several times as fast
    keys = word_of_row.astype(np.uint16) if words.size <= 2**16 else word_of_row
    by_word = np.argsort(keys, kind="stable")
    starts = np.zeros(words.size + 1, np.int64)
    np.cumsum(np.bincount(word_of_row, minlength=words.size), out=starts[1:])
    return Layout(batch_sizes, order, words, word_of_row, targets, by_word, starts, row_numbers)


def _with_rows(captions: Any, batch_sizes: Any) -> tuple[Any, Any]:
    """Return a layout's batch sizes with rows added behind those of each step, and `row_numbers` of all."""
    count, width = captions.shape
    sizes = batch_sizes.tolist()
    rows, steps = sum(sizes), min(-(-len(sizes) // _STEPS) * _STEPS, width - 1)
    wanted = min(_size(rows + count - sizes[0]), count * steps)
    # the first steps are filled, so that sizes never rise
    padded_sizes, missing = [], wanted - rows
    row_numbers = np.full(wanted, -1)
    start = padded_start = 0
    for size in sizes + [0] * (steps - len(sizes)):
        row_numbers[padded_start : padded_start + size] = np.arange(start, start + size)
        added = min(count - size, missing)
        missing -= added
        padded_sizes.append(size + added)
        start, padded_start = start + size, padded_start + size + added
    return np.array(padded_sizes), row_numbers


def _with_words(words: Any, word_of_row: Any, vocabulary_size: int) -> tuple[Any, Any]:
    """Return a layout's words with others that occur in no row, all rising."""
    wanted = min(_size(words.size), vocabulary_size)
    absent = np.ones(vocabulary_size, bool)
    absent[words] = False
    taken = np.flatnonzero(absent)[: wanted - words.size]
    all_words = np.concatenate([words, taken])
    all_words.sort()
    return all_words, all_words.searchsorted(words)[word_of_row]


def plan_captions(captions: Any, null: int, vocabulary_size: int) -> Plan | None:
    """Lay captions out and copy the layout to the current device, without waiting for it.

    Parameters
    ----------
    captions : numpy.ndarray of int, shape (N, T + 1)
        Word ids on the host.
    null : int
        Id of the word that is not counted as a target.
    vocabulary_size : int
        Ids must be in ``[0, vocabulary_size)``.

    Returns
    -------
    Plan or None
        None where an id is out of range.
    """
    import cupy

    layout = lay_out(captions, null, vocabulary_size)
    if layout is None:
        return None
    # CuPy copies through pinned memory of its own and does not wait
    record("copy")
    return Plan.of(layout, cupy.asarray(layout.numbers()))
