"""Which pictures of a split to show: evenly spaced, or the best, median and worst."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["best_median_worst", "linspace_indices"]


def linspace_indices(total: int, count: int) -> list[int]:
    """Return evenly spaced indices.

    Parameters
    ----------
    total : int
        Number of items to choose from.
    count : int
        Number of indices.

    Returns
    -------
    list of int
        ``min(count, total)`` increasing indices below `total`.
    """
    count = min(count, total)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def best_median_worst(values: npt.NDArray[np.floating], count: int) -> dict[str, list[int]]:
    """Return the indices of the largest, the median and the smallest values.

    Parameters
    ----------
    values : numpy.ndarray of float, shape (N,)
        Scores.
    count : int
        Number of indices in total; a third of them for each part, and at least one.

    Returns
    -------
    dict of str to list of int
        ``"best"``, ``"median"`` and ``"worst"``: disjoint lists in order of decreasing values, empty if N is too small.
    """
    order: list[int] = np.argsort(-values, kind="stable").tolist()
    third = max(min(count, len(order)) // 3, 1)
    middle = max((len(order) - third) // 2, third)
    return {
        "best": order[:third],
        "median": order[middle : middle + third],
        "worst": order[max(len(order) - third, middle + third) :],
    }
