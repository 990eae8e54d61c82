"""Which pictures of a split are shown."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.evaluation.selection import best_median_worst, linspace_indices


@pytest.mark.parametrize(("total", "count"), [(1, 1), (10, 3), (10, 10), (10, 50), (187, 48)])
def test_indices_are_distinct_and_evenly_spaced(total: int, count: int) -> None:
    chosen = linspace_indices(total, count)
    assert len(set(chosen)) == len(chosen) == min(count, total)
    assert chosen == sorted(chosen)
    assert chosen[0] <= total // len(chosen)
    assert total - 1 - chosen[-1] <= total // len(chosen)
    assert all(0 <= index < total for index in chosen)


@pytest.mark.parametrize(
    ("total", "count", "expected"),
    [
        (9, 9, {"best": [8, 7, 6], "median": [5, 4, 3], "worst": [2, 1, 0]}),
        (9, 3, {"best": [8], "median": [4], "worst": [0]}),
        (2, 48, {"best": [1], "median": [0], "worst": []}),
        (1, 1, {"best": [0], "median": [], "worst": []}),
    ],
)
def test_thirds_are_disjoint_and_ordered(total: int, count: int, expected: dict[str, list[int]]) -> None:
    assert best_median_worst(np.arange(float(total)), count) == expected
