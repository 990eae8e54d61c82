"""Nearest neighbours against the definition, written out."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.evaluation import nearest_neighbour
from capgpu.evaluation.nearest_neighbour import nearest_neighbours


def test_cosine_ignores_lengths_and_euclidean_does_not() -> None:
    base = np.array([[1.0, 1.0], [10.0, 0.0]])
    query = np.array([[3.0, 0.1]])
    assert nearest_neighbours(query, base, "cosine").tolist() == [1]
    assert nearest_neighbours(query, base, "euclidean").tolist() == [0]


@pytest.mark.parametrize("metric", ["cosine", "euclidean"])
@pytest.mark.parametrize("block_bytes", [1, 4 * 7 * 5, 4 * 23 * 3, 1 << 20])
def test_every_block_size_gives_the_brute_force_result(
    metric: str, block_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nearest_neighbour, "_BLOCK_BYTES", block_bytes)
    random = np.random.default_rng(3)
    queries, base = random.standard_normal((10, 7)), random.standard_normal((23, 7)) + 0.3
    if metric == "cosine":
        unit = base / np.linalg.norm(base, axis=1, keepdims=True)
        expected = (queries @ unit.T).argmax(axis=1)
    else:
        expected = ((queries[:, None] - base[None]) ** 2).sum(axis=2).argmin(axis=1)
    assert nearest_neighbours(queries, base, metric).tolist() == expected.tolist()  # type: ignore[arg-type]


@pytest.mark.parametrize("block_bytes", [1, 4 * 7 * 5, 1 << 20])
def test_the_nearest_among_some_rows_is_one_of_them(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_neighbour, "_BLOCK_BYTES", block_bytes)
    random = np.random.default_rng(4)
    queries, base = random.standard_normal((10, 7)), random.standard_normal((23, 7))
    rows = np.array([1, 2, 5, 8, 13, 21, 22])
    expected = rows[nearest_neighbours(queries, base[rows])]
    assert nearest_neighbours(queries, base, rows=rows).tolist() == expected.tolist()
    with pytest.raises(ValueError, match="rows: expected at least one row"):
        nearest_neighbours(queries, base, rows=rows[:0])


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_of_equally_near_rows_the_first_is_chosen(block_bytes: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nearest_neighbour, "_BLOCK_BYTES", block_bytes)
    base = np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]])
    assert nearest_neighbours(np.array([[0.0, 2.0], [2.0, 0.0]]), base).tolist() == [1, 0]


def test_float16_features_do_not_overflow() -> None:
    base = np.array([[300.0, 0.0], [300.0, 299.0]], dtype=np.float16)
    assert nearest_neighbours(base, base, "euclidean").tolist() == [0, 1]


def test_grids_are_compared_by_the_mean_over_their_cells() -> None:
    random = np.random.default_rng(0)
    queries, base = random.normal(size=(5, 4, 3)).astype(np.float16), random.normal(size=(9, 4, 3))
    expected = nearest_neighbours(queries.astype(np.float32).mean(axis=1), base.mean(axis=1))
    np.testing.assert_array_equal(nearest_neighbours(queries, base), expected)


def test_a_zero_vector_is_never_a_neighbour() -> None:
    base = np.array([[0.0, 0.0], [1.0, 0.0]])
    assert nearest_neighbours(np.array([[2.0, 0.0], [0.0, 0.0]]), base).tolist() == [1, 0]


@pytest.mark.parametrize(
    ("queries", "base", "metric", "message"),
    [
        (np.zeros((2, 3)), np.zeros((2, 4)), "cosine", r"got \(2, 3\) and \(2, 4\)"),
        (np.zeros((2, 3)), np.zeros((0, 3)), "cosine", "B >= 1"),
        (np.zeros(3), np.zeros((2, 3)), "cosine", r"\(Q, D\)"),
        (np.zeros((2, 3)), np.zeros((2, 3)), "manhattan", "metric: expected .* got 'manhattan'"),
    ],
)
def test_bad_input_is_refused(queries, base, metric, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=message):
        nearest_neighbours(queries, base, metric)
