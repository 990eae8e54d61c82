"""The trivial guess that a captioner has to beat: the caption of the nearest training picture."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import numpy.typing as npt

__all__ = ["nearest_neighbours"]

_BLOCK_BYTES = 32 << 20  # of distances held at once


def nearest_neighbours(
    queries: npt.NDArray[Any], base: npt.NDArray[Any], metric: Literal["cosine", "euclidean"] = "cosine"
) -> npt.NDArray[np.int64]:
    """Find the row of `base` nearest to each query, in blocks that need little memory.

    Parameters
    ----------
    queries : numpy.ndarray, shape (Q, D)
        Feature vectors, real.
    base : numpy.ndarray, shape (B, D)
        Feature vectors to choose from, real.
    metric : {"cosine", "euclidean"}
        The largest cosine, or the smallest distance. A vector of zeros has cosine 0 with everything.

    Returns
    -------
    numpy.ndarray of int64, shape (Q,)
        Row indices into `base`; the first of equally near rows.

    Raises
    ------
    ValueError
        For an unknown metric, or shapes that do not fit.
    """
    if metric not in ("cosine", "euclidean"):
        raise ValueError(f"metric is {metric!r}; wanted 'cosine' or 'euclidean'.")
    if queries.ndim != 2 or base.ndim != 2 or queries.shape[1] != base.shape[1] or base.shape[0] == 0:
        raise ValueError(
            f"queries has shape {queries.shape} and base {base.shape}; wanted (Q, D) and (B, D) with B >= 1."
        )
    base = base.astype(np.float32)
    offset: Any = 0.0
    if metric == "cosine":
        base = _unit(base)
    else:
        offset = 0.5 * np.einsum("bd,bd->b", base, base)
    rows = max(1, _BLOCK_BYTES // (4 * base.shape[0]))
    nearest = np.empty(queries.shape[0], dtype=np.int64)
    for start in range(0, queries.shape[0], rows):
        block = queries[start : start + rows].astype(np.float32)
        # a query's own length changes neither order, so queries need no scaling
        nearest[start : start + rows] = np.argmax(block @ base.T - offset, axis=1)
    return nearest


def _unit(vectors: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit: npt.NDArray[np.float32] = np.divide(vectors, lengths, out=np.zeros_like(vectors), where=lengths > 0)
    return unit
