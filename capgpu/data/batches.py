"""Minibatches of a split: which captions, in which order, and the features of their pictures.

The order is a pure function of (seed, epoch): a run that stops anywhere can be continued with the same batches, and
there is no generator state to save.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Mapping
from typing import Any, TypeAlias

import numpy as np

from capgpu.backend import is_host_array
from capgpu.data.arrays import Minibatch, split_arrays
from capgpu.data.device_cache import take_batches
from capgpu.data.prefetch import prefetch
from capgpu.validation import check_count
from capgpu.vocabulary import NULL

__all__ = ["epoch_batches", "evaluation_batches", "iterations_per_epoch"]

HostInts: TypeAlias = np.ndarray[Any, np.dtype[np.integer[Any]]]

#: Minibatches among which captions are sorted by length: enough to find captions of one length for each of them, few
#: enough that a caption meets other ones in every epoch.
_POOL = 32


def iterations_per_epoch(count: int, batch_size: int) -> int:
    """Tell how many minibatches an epoch of training has.

    Parameters
    ----------
    count : int
        Captions in the split.
    batch_size : int
        Captions wanted in a minibatch.

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
) -> Generator[Minibatch, None, None]:
    """Go once through a split in a shuffled order, every caption once.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    batch_size : int
        Captions wanted in a minibatch. What it leaves over is dealt out evenly: the first minibatches may hold a
        little more, and one holds everything where `batch_size` is larger than the split.
    split : str
        The split to go through.
    seed, epoch : int
        Non-negative; the same pair gives the same order.
    start : int
        Minibatches to skip, for continuing within an epoch.
    group_by_length : bool
        Whether captions of like lengths share a minibatch. The order of the minibatches is shuffled all the same.
        Packed captions have no padding to save; what is saved are steps of the recurrence, which are then fuller.

    Returns
    -------
    generator of (captions, features, image_idxs)
        The `iterations_per_epoch` minibatches, each as from `capgpu.data.arrays.sample_minibatch`. Features are
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
    return _take(arrays, selections[start:])


def _lengths(captions: HostInts, null: int) -> HostInts:
    """Count the steps of each caption: to its last word that is not NULL."""
    columns = np.arange(captions.shape[1], dtype=np.int32)
    return np.asarray(((captions != null) * columns).max(axis=1))


def _grouped(order: HostInts, lengths: HostInts, number: int, places: HostInts) -> list[HostInts]:
    """Cut a shuffled order into minibatches of like lengths; the k-th to be cut comes at the k-th place."""
    share, rest = divmod(order.size, number)
    sizes = share + (places < rest)  # those of array_split: one more in the first
    pool = np.repeat(np.arange(number) // _POOL, sizes)
    order = order[np.lexsort((lengths[order], pool))]
    cut = np.split(order, np.cumsum(sizes)[:-1])
    return [cut[k] for k in np.argsort(places)]


def evaluation_batches(
    data: Mapping[str, Any], batch_size: int, split: str = "val"
) -> Generator[Minibatch, None, None]:
    """Go through a whole split in its own order, the last minibatch as short as it comes.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    batch_size : int
        Captions in a minibatch.
    split : str
        The split to go through.

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
    return _take(arrays, (slice(start, start + batch_size) for start in range(0, count, batch_size)))


def _take(arrays: Minibatch, selections: Iterable[Any]) -> Generator[Minibatch, None, None]:
    # Rows of a mapped file may have to come from a disk. Those in memory are gathered sooner than a thread is told to;
    # and where they go to a device, that is at work on its queue meanwhile, anyway.
    batches = _gather(arrays, selections)
    return prefetch(batches) if isinstance(arrays[1], np.memmap) else batches


def _gather(arrays: Minibatch, selections: Iterable[Any]) -> Generator[Minibatch, None, None]:
    captions, features, image_idxs = arrays
    if is_host_array(features):
        for chosen in selections:
            images = image_idxs[chosen]
            yield captions[chosen], features[images], images
        return
    selections = list(selections)
    taken = take_batches(features, [image_idxs[chosen] for chosen in selections])
    for chosen, (images, rows) in zip(selections, taken, strict=True):
        yield captions[chosen], rows, images
