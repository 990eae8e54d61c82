"""The trivial guess that a captioner has to beat: the caption of the nearest training picture."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["nearest_neighbours"]

_BLOCK_BYTES = 32 << 20  # of distances held at once


def nearest_neighbours(
    queries: npt.NDArray[Any],
    base: npt.NDArray[Any],
    metric: Literal["cosine", "euclidean"] = "cosine",
    rows: npt.NDArray[np.integer] | None = None,
) -> npt.NDArray[np.int64]:
    """Find the row of `base` nearest to each query, in blocks that need little memory.

    Neither array is ever copied whole: both may be mapped from files larger than memory.

    Parameters
    ----------
    queries : numpy.ndarray, shape (Q, D)
        Feature vectors, real.
    base : numpy.ndarray, shape (B, D)
        Feature vectors to choose from, real.
    metric : {"cosine", "euclidean"}
        The largest cosine, or the smallest distance. A vector of zeros has cosine 0 with everything.
    rows : numpy.ndarray of int, shape (R,), optional
        The rows of `base` to choose from, rising; all of them if not given.

    Returns
    -------
    numpy.ndarray of int64, shape (Q,)
        Row indices into `base`; the first of equally near rows.

    Raises
    ------
    ValueError
        For an unknown metric, shapes that do not fit, or no rows to choose from.
    """
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric is {metric!r}; wanted 'cosine' or 'euclidean'.")
    if queries.ndim != 2 or base.ndim != 2 or queries.shape[1] != base.shape[1] or base.shape[0] == 0:
        raise ValueError(
            f"queries has shape {queries.shape} and base {base.shape}; wanted (Q, D) and (B, D) with B >= 1."
        )
    rows = np.arange(base.shape[0]) if rows is None else rows
    if rows.size == 0:
        raise ValueError("rows is empty: there is nothing to choose from.")
    best = np.full(queries.shape[0], -np.inf, dtype=np.float32)
    nearest = np.zeros(queries.shape[0], dtype=np.int64)
    base_step = min(max(1, _BLOCK_BYTES // (4 * base.shape[1])), rows.size)
    query_step = max(1, _BLOCK_BYTES // (4 * base_step))
    for first in range(0, rows.size, base_step):
        chosen = rows[first : first + base_step]
        part = base[chosen].astype(np.float32, copy=False)
        offset: Any = 0.0
        if metric == "cosine":
            part = _unit(part)
        else:
            offset = 0.5 * np.einsum("bd,bd->b", part, part)
        for start in range(0, queries.shape[0], query_step):
            own = slice(start, start + query_step)
            # a query's own length changes neither order, so queries need no scaling
            nearness = queries[own].astype(np.float32, copy=False) @ part.T - offset
            place = np.argmax(nearness, axis=1)
            value = np.take_along_axis(nearness, place[:, None], axis=1)[:, 0]
            nearer = value > best[own]  # not where equal: the first of equally near rows stays
            nearest[own][nearer], best[own][nearer] = chosen[place[nearer]], value[nearer]
    return nearest


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit
