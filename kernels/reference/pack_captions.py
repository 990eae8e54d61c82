"""The oracle of the layout of captions. It is computed on the host whatever the backend: captions are host integers."""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.backend import Array, array_namespace, is_host_array
from capgpu.dtypes import sum_dtype
from capgpu.kernels.contract import CaptionBatch, check_word_ids

__all__ = ["caption_batch", "pack_captions", "spread_weights"]

HostInts = np.ndarray[Any, np.dtype[np.int64]]
HostFloats = np.ndarray[Any, np.dtype[np.float64]]


def caption_batch(
    captions: HostInts, null: int, vocabulary_size: int, like: Array, weights: HostFloats | None = None
) -> CaptionBatch:
    """Pack a minibatch of captions for teacher forcing.

    Parameters
    ----------
    captions : numpy.ndarray of int, shape (N, T + 1)
        Word ids; inputs are all but the last column, targets all but the first.
    null : int
        Id of the word that is not counted as a target.
    vocabulary_size : int
        Ids must be in ``[0, vocabulary_size)``.
    like : array
        Any array of the library and the device that the batch is brought to, in the dtype of the parameters.
    weights : numpy.ndarray of float64, shape (N,), optional
        Factor of the loss of each caption's words.

    Returns
    -------
    CaptionBatch
        The batch; a kernel may write the next one to the same memory.

    Raises
    ------
    ValueError
        For an id out of range.
    """
    if is_host_array(like):
        order, batch_sizes, words, word_of_row, targets = pack_captions(captions, null, vocabulary_size)
        row_weights = None if weights is None else spread_weights(weights, order, batch_sizes, like)
        return CaptionBatch(batch_sizes, order, words, word_of_row, targets, row_weights=row_weights)
    from capgpu.kernels import host_kernels

    packed = host_kernels().pack_captions(captions, null, vocabulary_size)
    xp = array_namespace(like)
    order, words, word_of_row, targets = (xp.asarray(packed[k], device=like.device) for k in (0, 2, 3, 4))
    row_weights = None if weights is None else spread_weights(weights, *packed[:2], like)
    return CaptionBatch(packed[1], order, words, word_of_row, targets, row_weights=row_weights)


def spread_weights(weights: HostFloats, order: HostInts, batch_sizes: HostInts, like: Array) -> Array:
    """Return the weight of each packed row: that of its caption.

    Parameters
    ----------
    weights : numpy.ndarray of float64, shape (N,)
        Weight of each caption.
    order, batch_sizes : numpy.ndarray of int
        The packing of the captions, as `CaptionBatch` describes it.
    like : array
        As for `caption_batch`.

    Returns
    -------
    array, shape (M,)
        In the dtype of losses, beside `like`.
    """
    starts = np.cumsum(batch_sizes) - batch_sizes
    ranks = np.arange(int(batch_sizes.sum())) - np.repeat(starts, batch_sizes)
    xp = array_namespace(like)
    return xp.asarray(weights[order][ranks], dtype=sum_dtype(like.dtype, xp), device=like.device)


def pack_captions(
    captions: HostInts, null: int, vocabulary_size: int
) -> tuple[HostInts, HostInts, HostInts, HostInts, HostInts]:
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

    Raises
    ------
    ValueError
        For an id out of range.
    """
    if captions.min() < 0 or captions.max() >= vocabulary_size:
        check_word_ids(captions, vocabulary_size)
    count, width = captions.shape
    has_target = captions[:, 1:] != null
    lengths = np.where(has_target.any(axis=1), width - 1 - np.argmax(has_target[:, ::-1], axis=1), 0)
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
