"""Nearest-neighbour baseline: the caption of the training picture with the most similar features."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import numpy.typing as npt

from capgpu.data.arrays import parts_of
from capgpu.distributed import ALONE, Communicator
from capgpu.errors import InvalidValueError
from capgpu.visible_text import short

if TYPE_CHECKING:
    from capgpu.data.datasets import Dataset

__all__ = ["nearest_neighbours", "neighbour_captions"]

_BLOCK_BYTES = 32 << 20  # of distances in memory at a time


def nearest_neighbours(
    queries: npt.NDArray[Any],
    base: npt.NDArray[Any],
    metric: Literal["cosine", "euclidean"] = "cosine",
    rows: npt.NDArray[np.integer] | None = None,
    communicator: Communicator = ALONE,
) -> npt.NDArray[np.int64]:
    """Find the row of `base` nearest to each query.

    Computed in blocks, without a copy of either array: both may be mapped from files larger than memory.

    Parameters
    ----------
    queries : numpy.ndarray, shape (Q, D) or (Q, L, D)
        Real feature vectors; of grids of them the mean over the cells.
    base : numpy.ndarray, shape (B, D) or (B, L, D)
        Real feature vectors to choose from.
    metric : {"cosine", "euclidean"}
        Largest cosine, or smallest distance. A vector of zeros has cosine 0 with every vector.
    rows : numpy.ndarray of int, shape (R,), optional
        Increasing rows of `base` to choose from; by default all.
    communicator : Communicator
        Joins the processes that call this together: each reads its part of `base`, and all get the same result, that
        of one process.

    Returns
    -------
    numpy.ndarray of int64, shape (Q,)
        Row indices into `base`; the first of equally near rows.

    Raises
    ------
    ValueError
        For an unknown metric, shapes that do not match, or no rows to choose from.
    """
    if metric not in ("cosine", "euclidean"):
        raise InvalidValueError(f"metric: expected 'cosine' or 'euclidean', got {short(metric)}.")
    if queries.ndim not in (2, 3) or queries.shape[1:] != base.shape[1:] or base.shape[0] == 0:
        raise InvalidValueError(
            "queries, base: expected shapes (Q, D) and (B, D), or (Q, L, D) and (B, L, D), with B >= 1, got "
            f"{queries.shape} and {base.shape}."
        )
    if queries.ndim == 3:
        queries = np.concatenate([_vectors(part) for part in parts_of(queries)])
    rows = np.arange(base.shape[0]) if rows is None else rows
    if rows.size == 0:
        raise InvalidValueError("rows: expected at least one row to choose from, got none.")
    best = np.full(queries.shape[0], -np.inf, dtype=np.float32)
    nearest = np.zeros(queries.shape[0], dtype=np.int64)
    base_step = min(max(1, _BLOCK_BYTES // (4 * math.prod(base.shape[1:]))), rows.size)
    query_step = max(1, _BLOCK_BYTES // (4 * base_step))
    for first in range(communicator.rank * base_step, rows.size, communicator.size * base_step):
        chosen = rows[first : first + base_step]
        part = _vectors(base[chosen])
        offset: Any = 0.0
        if metric == "cosine":
            part = _unit(part)
        else:
            offset = 0.5 * np.einsum("bd,bd->b", part, part)
        for start in range(0, queries.shape[0], query_step):
            block = slice(start, start + query_step)
            # the norm of a query does not change the order, so queries are not scaled
            similarity = queries[block].astype(np.float32, copy=False) @ part.T - offset
            column = np.argmax(similarity, axis=1)
            value = np.take_along_axis(similarity, column[:, None], axis=1)[:, 0]
            nearer = value > best[block]  # strictly: the first of equally near rows stays
            nearest[block][nearer], best[block][nearer] = chosen[column[nearer]], value[nearer]
    if communicator.size > 1:
        parts = communicator.gather([best.tolist(), nearest.tolist()])
        values, candidates = (np.array([part[i] for part in parts]) for i in (0, 1))
        # of equally near rows the first, as in one process
        nearest = np.where(values == values.max(axis=0), candidates, base.shape[0]).min(axis=0)
    return nearest


def _vectors(features: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """Return features in float32, of grids the mean over the cells."""
    vectors: npt.NDArray[np.float32] = (
        features.mean(axis=1, dtype=np.float32) if features.ndim == 3 else features.astype(np.float32, copy=False)
    )
    return vectors


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit


def neighbour_captions(dataset: Dataset, split: str, communicator: Communicator = ALONE) -> list[str]:
    """Caption each picture with the first caption of the nearest captioned training picture.

    Parameters
    ----------
    dataset : Dataset
        The data set.
    split : str
        The split to caption.
    communicator : Communicator
        As for `nearest_neighbours`.

    Returns
    -------
    list of str
        One caption per picture of the split.
    """
    captioned, first = np.unique(dataset.captioned_images("train"), return_index=True)
    nearest = nearest_neighbours(
        dataset.features(split), dataset.features("train"), rows=captioned, communicator=communicator
    )
    # only the captions that are used are tokenized
    used, index = np.unique(first[np.searchsorted(captioned, nearest)], return_inverse=True)
    texts = dataset.caption_texts("train", used)
    return [texts[i] for i in index.tolist()]
