"""Minibatches of a split: captions in random or given order, with the features of their pictures.

The order is a pure function of (seed, epoch): a run can be resumed at any minibatch without saving the state of a
generator.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from capgpu.backend import is_host_array
from capgpu.data.arrays import Minibatch, split_arrays
from capgpu.data.device_cache import take_batches
from capgpu.data.prefetch import prefetch
from capgpu.sequence import rows_of_grids
from capgpu.validation import check_count
from capgpu.vocabulary import NULL

__all__ = ["epoch_batches", "evaluation_batches", "iterations_per_epoch", "rank_rows"]

HostInts: TypeAlias = np.ndarray[Any, np.dtype[np.integer[Any]]]

#: Minibatches whose captions are sorted by length together: enough for uniform lengths within a minibatch, few enough
#: that minibatches differ between epochs.
_POOL = 32


def iterations_per_epoch(count: int, batch_size: int) -> int:
    """Return the number of minibatches per training epoch.

    Parameters
    ----------
    count : int
        Captions in the split.
    batch_size : int
        Captions per minibatch.

    Returns
    -------
    int
        ``max(count // batch_size, 1)``, as in the course.
    """
    check_count("batch_size", batch_size, 1)
    return max(count // batch_size, 1)


def epoch_batches(
    data: Mapping[str, Any],
    batch_size: int,
    split: str = "train",
    *,
    seed: int,
    epoch: int,
    start: int = 0,
    group_by_length: bool = False,
    part: tuple[int, int] = (0, 1),
) -> Generator[Minibatch, None, None]:
    """Yield the minibatches of an epoch: every caption of a split once, in random order.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    batch_size : int
        Captions per minibatch. The remainder is distributed evenly: the first minibatches may be slightly larger, and
        there is a single one if `batch_size` is larger than the split.
    split : str
        The split.
    seed, epoch : int
        Non-negative; the same pair gives the same order.
    start : int
        Minibatches to skip, to resume within an epoch.
    group_by_length : bool
        Whether captions of similar lengths share a minibatch. The order of the minibatches is still random. Packed
        captions have no padding; grouping reduces the number of steps of the recurrence.
    part : (int, int)
        Rank and number of ranks: features are read for this rank's captions only, those of `rank_rows`.

    Returns
    -------
    generator of (captions, features, image_idxs)
        The `iterations_per_epoch` minibatches, each as from `capgpu.data.arrays.sample_minibatch`, with the features of
        `part`. Features are
        gathered where they are stored (`capgpu.data.device_cache`). Those of a mapped file are read ahead by a thread
        that ends with the generator: close it if a loop may be left early.

    Raises
    ------
    ValueError
        For a missing split or `batch_size` below 1.
    """
    arrays = split_arrays(data, split)
    captions = arrays[0]
    count = captions.shape[0]
    number = iterations_per_epoch(count, batch_size)
    random = np.random.default_rng([seed, epoch])
    order = random.permutation(count)
    if group_by_length:
        null = data.get("word_to_idx", {}).get(NULL, 0)
        selections = _grouped(order, _lengths(captions, null), number, random.permutation(number))
    else:
        selections = np.array_split(order, number)
    return _take(arrays, selections[start:], part)


def rank_rows(count: int, rank: int, size: int, per_picture: int = 1) -> HostInts:
    """Return which captions of a minibatch a rank computes: each `size`-th, so that sorted lengths are dealt evenly.

    Parameters
    ----------
    count : int
        Captions in the minibatch.
    rank, size : int
        Number of the rank, and of all.
    per_picture : int
        Captions in a row that belong to one picture, and so to one rank.

    Returns
    -------
    numpy.ndarray of int, shape (n,)
        Rising; empty for some ranks if there are fewer captions, or pictures, than ranks.
    """
    return rows_of_grids(np.arange(rank, count // per_picture, size), per_picture)


def _lengths(captions: HostInts, null: int) -> HostInts:
    """Return the number of steps of each caption, up to its last word that is not NULL."""
    columns = np.arange(captions.shape[1], dtype=np.int32)
    return np.asarray(((captions != null) * columns).max(axis=1))


def _grouped(order: HostInts, lengths: HostInts, number: int, positions: HostInts) -> list[HostInts]:
    """Split a random order into minibatches of similar lengths; minibatch k is yielded at position ``positions[k]``."""
    size, remainder = divmod(order.size, number)
    sizes = size + (positions < remainder)  # as array_split: one more in the first ones
    pool = np.repeat(np.arange(number) // _POOL, sizes)
    order = order[np.lexsort((lengths[order], pool))]
    batches = np.split(order, np.cumsum(sizes)[:-1])
    return [batches[k] for k in np.argsort(positions)]


def evaluation_batches(
    data: Mapping[str, Any], batch_size: int, split: str = "val", part: tuple[int, int] = (0, 1)
) -> Generator[Minibatch, None, None]:
    """Yield the minibatches of a split in its order; the last one may be shorter.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    batch_size : int
        Captions per minibatch.
    split : str
        The split.
    part : (int, int)
        Rank and number of ranks: each `size`-th minibatch is yielded.

    Returns
    -------
    generator of (captions, features, image_idxs)
        Each as from `capgpu.data.arrays.sample_minibatch`, with features as from `epoch_batches`.

    Raises
    ------
    ValueError
        For a missing split or `batch_size` below 1.
    """
    arrays = split_arrays(data, split)
    check_count("batch_size", batch_size, 1)
    count = arrays[0].shape[0]
    starts = range(part[0] * batch_size, count, part[1] * batch_size)
    return _take(arrays, (slice(start, start + batch_size) for start in starts))


def _take(
    arrays: Minibatch, selections: Iterable[Any], part: tuple[int, int] = (0, 1)
) -> Generator[Minibatch, None, None]:
    # Rows of a mapped file may be read from a disk, rows in memory are gathered faster than a thread is notified. With
    # a device, gathering already overlaps with the work in its queue.
    batches = _gather(arrays, selections, slice(part[0], None, part[1]))
    return prefetch(batches) if isinstance(arrays[1], np.memmap) else batches


def _gather(arrays: Minibatch, selections: Iterable[Any], rows: slice) -> Generator[Minibatch, None, None]:
    captions, features, image_idxs = arrays
    if is_host_array(features):
        for chosen in selections:
            images = image_idxs[chosen]
            yield captions[chosen], features[images[rows]], images
        return
    selections = list(selections)
    gathered = take_batches(features, [image_idxs[chosen][rows] for chosen in selections])
    for chosen, (_, batch_features) in zip(selections, gathered, strict=True):
        yield captions[chosen], batch_features, image_idxs[chosen]
