"""The oracle of the layout of captions. It runs on the host whatever the backend: captions are host integers."""

from __future__ import annotations

from typing import Any

import numpy as np

__all__ = ["pack_captions"]


def pack_captions(captions: Any, null: int, vocabulary_size: int) -> tuple[Any, Any, Any, Any, Any] | None:
    """Lay captions out for teacher forcing, without their padding.

    Parameters
    ----------
    captions : numpy.ndarray of int, shape (N, T + 1)
        Word ids; inputs are all but the last column, targets all but the first.
    null : int
        Id of the word that is not counted as a target.
    vocabulary_size : int
        Ids must be in ``[0, vocabulary_size)``.

    Returns
    -------
    order : numpy.ndarray of int64, shape (N,)
        Caption at each rank, most steps first; equal ones keep their order. A caption's steps run to its last
        target that is not NULL.
    batch_sizes : numpy.ndarray of int64, shape (T',)
        Captions alive at each step.
    words : numpy.ndarray of int64, shape (U,)
        Distinct input words, rising.
    word_of_row : numpy.ndarray of int64, shape (M,)
        Place in `words` of each packed row's input.
    targets : numpy.ndarray of int64, shape (M,)
        Next word of each packed row, -1 where it is NULL.

    Notes
    -----
    None is returned where an id is out of range.
    """
    if captions.min() < 0 or captions.max() >= vocabulary_size:
        return None
    count, width = captions.shape
    counted = captions[:, 1:] != null
    lengths = np.where(counted.any(axis=1), width - 1 - np.argmax(counted[:, ::-1], axis=1), 0)
    order = np.argsort(-lengths, kind="stable")
    longest = int(lengths.max())
    batch_sizes = count - np.cumsum(np.bincount(lengths, minlength=longest + 1))[:longest]
    steps = np.repeat(np.arange(longest), batch_sizes)
    starts = np.cumsum(batch_sizes) - batch_sizes
    ranks = np.arange(steps.size) - np.repeat(starts, batch_sizes)
    index = order[ranks] * width + steps
    flat = captions.reshape(-1).astype(np.int64)
    targets = flat[index + 1]
    words, word_of_row = np.unique(flat[index], return_inverse=True)
    return order, batch_sizes, words, word_of_row, np.where(targets == null, -1, targets)
