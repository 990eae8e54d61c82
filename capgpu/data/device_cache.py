"""Features in device memory: copied once if they fit, so that minibatches gather their rows on the device.

Otherwise each row is transferred for every caption of its picture in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from capgpu.backend import Array, array_namespace, asarray, current_backend, free_device_memory
from capgpu.data.arrays import parts_of

__all__ = ["place_features", "take_batches"]

#: Fraction of the free memory for features; steps and the optimizer state, allocated later, need the rest.
_FRACTION = 0.5


def place_features(data: Mapping[str, Any], splits: Sequence[str]) -> dict[str, Any]:
    """Copy features to the current backend's device if they fit.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    splits : sequence of str
        The splits to copy, the most used first.

    Returns
    -------
    dict
        The same entries; ``<split>_features`` is a device array if it fits into half of the free device memory together
        with earlier splits. On the host's backends nothing is copied.

    Notes
    -----
    If the allocation fails, because the free memory is fragmented or another program uses it, the features stay on the
    host.
    """
    placed = dict(data)
    capacity = free_device_memory()
    if capacity is None:
        return placed
    capacity = int(capacity * _FRACTION)
    for split in splits:
        features = data[f"{split}_features"]
        if features.nbytes <= capacity:
            with suppress(MemoryError):
                placed[f"{split}_features"] = _copied(features)
                capacity -= features.nbytes
    return placed


def _copied(features: np.ndarray[Any, Any]) -> Array:
    """Copy an array to the device in parts: a mapped file may be larger than the host's memory."""
    xp = current_backend().xp
    dev_array = xp.empty(features.shape, dtype=getattr(xp, features.dtype.name))
    start = 0
    for part in parts_of(features):
        dev_array[start : start + len(part), ...] = asarray(part)
        start += len(part)
    return dev_array


def take_batches(
    features: Array, batches: Sequence[np.ndarray[Any, Any]]
) -> Iterator[tuple[np.ndarray[Any, Any], Array]]:
    """Gather the rows of minibatches on a device, with one transfer of indices for all of them.

    Parameters
    ----------
    features : array, shape (I, D) or (I, L, D)
        On a device.
    batches : sequence of numpy.ndarray of int
        Rows of each minibatch, on the host; not validated.

    Yields
    ------
    rows : numpy.ndarray of int, shape (N,)
        An entry of `batches`.
    gathered : array, shape (N, D) or (N, L, D)
        Those rows of `features`, on the same device.
    """
    if not batches:
        return
    xp = array_namespace(features)
    rows, start = xp.asarray(np.concatenate(batches), device=features.device), 0
    for batch in batches:
        yield batch, xp.take(features, rows[start : start + batch.size], axis=0)
        start += batch.size
