"""What a minibatch of captions tells the device: one array of integers, one copy a step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from capgpu.kernels import host_kernels
from capgpu.kernels.cuda.module import record
from capgpu.kernels.cuda.recurrence import Steps

__all__ = ["Plan", "plan_captions"]


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

    packed = host_kernels().pack_captions(captions, null, vocabulary_size)
    if packed is None:
        return None
    order, batch_sizes, words, word_of_row, targets = packed
    # NumPy sorts 16 bits by counting digits, stable and several times as fast
    keys = word_of_row.astype(np.uint16) if words.size <= 2**16 else word_of_row
    by_word = np.argsort(keys, kind="stable")
    starts = np.zeros(words.size + 1, np.int64)
    np.cumsum(np.bincount(word_of_row, minlength=words.size), out=starts[1:])
    parts = (batch_sizes, order, words, word_of_row, targets, by_word, starts)
    # CuPy copies through pinned memory of its own and does not wait
    record("copy")
    there = cupy.asarray(np.concatenate(parts, dtype=np.int32, casting="same_kind"))
    views, begin = [], 0
    for part in parts:
        views.append(there[begin : begin + part.size])
        begin += part.size
    steps = Steps(tuple(batch_sizes.tolist()), views[0])
    return Plan(targets.size, words.size, steps, *views[1:])
