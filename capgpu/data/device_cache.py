"""Features on the device: copied there once where they fit, so that a minibatch takes its rows there.

Otherwise every row crosses the bus once for each caption of its picture, in every epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from capgpu.backend import Array, array_namespace, asarray, current_backend, free_device_memory

__all__ = ["place_features", "take_batches"]

#: Part of the free memory that features may take: the rest is for steps and the optimiser's state, not yet there.
_SHARE = 0.5
_ROWS_AT_ONCE = 1024


def place_features(data: Mapping[str, Any], splits: Sequence[str]) -> dict[str, Any]:
    """Copy features to the current backend's device where there is room.

    Parameters
    ----------
    data : dict
        The course's data dictionary.
    splits : sequence of str
        The splits to place, the most used first.

    Returns
    -------
    dict
        The same entries; ``<split>_features`` is an array on the device where it takes at most half of the memory that
        is free there, after the splits before it. On the host's backends nothing is copied.

    Notes
    -----
    Where the device refuses all the same, because its free memory is in pieces or another program was faster, the
    features stay where they are.
    """
    placed = dict(data)
    room = free_device_memory()
    if room is None:
        return placed
    room = int(room * _SHARE)
    for split in splits:
        features = data[f"{split}_features"]
        if features.nbytes <= room:
            with suppress(MemoryError):
                placed[f"{split}_features"] = _copied(features)
                room -= features.nbytes
    return placed


def _copied(features: np.ndarray[Any, Any]) -> Array:
    """Copy an array to the device some rows at a time: a mapped file may be larger than the host's memory."""
    xp = current_backend().xp
    there = xp.empty(features.shape, dtype=getattr(xp, features.dtype.name))
    for start in range(0, features.shape[0], _ROWS_AT_ONCE):
        there[start : start + _ROWS_AT_ONCE, :] = asarray(features[start : start + _ROWS_AT_ONCE])
    return there


def take_batches(
    features: Array, batches: Sequence[np.ndarray[Any, Any]]
) -> Iterator[tuple[np.ndarray[Any, Any], Array]]:
    """Take the rows of minibatch after minibatch on a device, with one copy of indices for all of them.

    Parameters
    ----------
    features : array, shape (I, D)
        On a device.
    batches : sequence of numpy.ndarray of int
        Rows of each minibatch, on the host; they are not checked.

    Yields
    ------
    rows : numpy.ndarray of int, shape (N,)
        An entry of `batches`.
    taken : array, shape (N, D)
        Those rows of `features`, beside `features`.
    """
    if not batches:
        return
    xp = array_namespace(features)
    rows, start = xp.asarray(np.concatenate(batches), device=features.device), 0
    for batch in batches:
        yield batch, xp.take(features, rows[start : start + batch.size], axis=0)
        start += batch.size
