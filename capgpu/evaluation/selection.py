"""Which pictures of a split to show: evenly spaced, or the best, typical and worst."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

__all__ = ["best_typical_worst", "linspace_indices"]


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


def best_typical_worst(values: npt.NDArray[np.floating], count: int) -> dict[str, list[int]]:
    """Return the indices of the largest values, of those nearest to the mean, and of the smallest.

    Where many captions have the same score, often the best possible one, the median is among them and shows nothing
    new; the mean is not. Of equal values evenly spaced ones are chosen: neighbours are often alike.

    Parameters
    ----------
    values : numpy.ndarray of float, shape (N,)
        Scores.
    count : int
        Number of indices in total; a third of them for each part, and at least one.

    Returns
    -------
    dict of str to list of int
        ``"best"``, ``"typical"`` and ``"worst"``: disjoint lists in order of decreasing values; for small N the last
        to be filled, ``"typical"``, is empty.
    """
    third = max(min(count, len(values)) // 3, 1)
    chosen: dict[str, list[int]] = {}
    rest = np.arange(len(values))
    for name, keys in (("best", -values), ("worst", values), ("typical", np.abs(values - values.mean()))):
        part = _smallest(keys, rest, third)
        rest = rest[~np.isin(rest, part)]
        chosen[name] = part[np.argsort(-values[part], kind="stable")].tolist()
    return {name: chosen[name] for name in ("best", "typical", "worst")}


def _smallest(keys: npt.NDArray[np.floating], among: npt.NDArray[np.intp], count: int) -> npt.NDArray[np.intp]:
    """Return `count` of the indices `among` with the smallest keys; of equal last ones, evenly spaced indices."""
    if len(among) <= count:
        return among
    limit = np.partition(keys[among], count - 1)[count - 1]
    below, tied = among[keys[among] < limit], among[keys[among] == limit]
    return np.concatenate([below, tied[linspace_indices(len(tied), count - len(below))]])
