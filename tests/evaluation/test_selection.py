"""Which pictures of a split are shown."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.evaluation.selection import best_typical_worst, linspace_indices


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
        (9, 9, {"best": [8, 7, 6], "typical": [5, 4, 3], "worst": [2, 1, 0]}),
        (9, 3, {"best": [8], "typical": [4], "worst": [0]}),
        (2, 48, {"best": [1], "typical": [], "worst": [0]}),
        (1, 1, {"best": [0], "typical": [], "worst": []}),
    ],
)
def test_thirds_are_disjoint_and_ordered(total: int, count: int, expected: dict[str, list[int]]) -> None:
    assert best_typical_worst(np.arange(float(total)), count) == expected


def test_typical_captions_differ_from_the_best_where_most_are_right() -> None:
    values = np.ones(100)
    values[10:40] = np.linspace(0, 0.9, 30)
    parts = best_typical_worst(values, 18)
    chosen = {name: values[indices] for name, indices in parts.items()}
    assert (chosen["best"] == 1).all()
    assert (np.abs(chosen["typical"] - values.mean()) < 0.12).all()
    assert (chosen["worst"] <= np.sort(values)[5]).all()
    assert len({i for indices in parts.values() for i in indices}) == 18
    assert max(np.diff(sorted(parts["best"]))) < 50  # of the equal ones some of everywhere, not the first six
    assert parts["best"] != [0, 1, 2, 3, 4, 5]
