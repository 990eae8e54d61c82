"""Packed sequences: the layout, packing and unpacking."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from capgpu.sequence import Packing, pack, unpack
from oracles.packing import batch_sizes_of, packed

lengths_of_batches = strategies.lists(strategies.integers(0, 6), min_size=1, max_size=7)


def test_the_example_of_the_documentation():
    packing = Packing.from_lengths([2, 4, 1])
    assert packing.order.tolist() == [1, 0, 2]
    assert packing.batch_sizes.tolist() == [3, 2, 1, 1]
    padded = np.array([["a0", "a1", "", ""], ["b0", "b1", "b2", "b3"], ["c0", "", "", ""]])
    rows = padded[packing.sequence_of_row, packing.step_of_row].tolist()
    assert rows == ["b0", "a0", "c0", "b1", "a1", "b2", "b3"]


@hypothesis.given(lengths=lengths_of_batches)
def test_the_plan_equals_one_built_from_plain_lists(lengths):
    packing = Packing.from_lengths(lengths)
    order = sorted(range(len(lengths)), key=lambda n: -lengths[n])
    longest_first = tuple(lengths[n] for n in order)
    assert packing.order.tolist() == order
    assert packing.batch_sizes.tolist() == batch_sizes_of(longest_first).tolist()
    assert packing.rows == sum(lengths)
    assert packing.alive == sum(length > 0 for length in lengths)
    assert {array.dtype for array in (packing.order, packing.batch_sizes)} == {np.dtype(np.int64)}
    marks = [np.array([[n, t] for t in range(lengths[n])]).reshape(-1, 2) for n in order]
    places = np.stack([packing.sequence_of_row, packing.step_of_row], axis=1)
    assert places.tolist() == packed(marks, 2).tolist()
    assert packing.order[packing.rank_of_row].tolist() == packing.sequence_of_row.tolist()


@hypothesis.given(lengths=lengths_of_batches, spare=strategies.integers(0, 2))
def test_unpacking_undoes_packing_and_fills_with_zeros(backend, lengths, spare):
    packing = Packing.from_lengths(np.array(lengths))
    steps = max(lengths) + spare
    padded = np.random.default_rng(0).uniform(1, 2, (len(lengths), steps, 3)).astype(np.float32)
    rows = pack(backend.asarray(padded), packing)
    assert rows.shape == (sum(lengths), 3)
    there_and_back = backend.to_numpy(unpack(rows, packing, steps))
    alive = np.arange(steps) < np.array(lengths)[:, None]
    assert there_and_back.dtype == np.float32
    assert np.array_equal(there_and_back, padded * alive[:, :, None])
    assert unpack(rows, packing).shape == (len(lengths), max(lengths), 3)


@pytest.mark.parametrize("shape", [(3, 4), (3, 4, 5), (3, 4, 2, 2)])
def test_rows_may_have_any_rank(backend, shape):
    padded = np.random.default_rng(0).uniform(1, 2, shape)
    packing = Packing.from_lengths([4, 1, 2])
    rows = pack(backend.asarray(padded), packing)
    assert backend.to_numpy(rows)[0].tolist() == padded[0, 0].tolist()
    assert unpack(rows, packing).shape == shape


def test_equal_lengths_keep_their_order():
    full = Packing.full(5, 3)
    planned = Packing.from_lengths([3] * 5)
    assert planned.order.tolist() == full.order.tolist() == [0, 1, 2, 3, 4]
    assert planned.batch_sizes.tolist() == full.batch_sizes.tolist() == [5, 5, 5]


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ([2, -1], "expected 0 or more, got -1"),
        ([[1, 2]], r"expected integers of shape \(N,\), got shape \(1, 2\)"),
        ([1.0, 2.0], "dtype float64"),
        ([True, False], "dtype bool"),
        (3, r"shape \(\)"),
    ],
)
def test_bad_lengths_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        Packing.from_lengths(lengths)


def test_arrays_that_do_not_fit_the_plan_are_refused(backend):
    packing = Packing.from_lengths([2, 3])
    with pytest.raises(ValueError, match=r"padded: expected 2 sequences of at least 3 steps.* got shape \(3, 3\)"):
        pack(backend.asarray(np.zeros((3, 3))), packing)
    with pytest.raises(ValueError, match=r"padded: expected .* got shape \(2, 2\)"):
        pack(backend.asarray(np.zeros((2, 2))), packing)
    with pytest.raises(ValueError, match="packed: expected 5 rows, as in packing, got 4"):
        unpack(backend.asarray(np.zeros((4, 1))), packing)
    with pytest.raises(ValueError, match="steps: expected at least 3, the longest length, got 2"):
        unpack(backend.asarray(np.zeros((5, 1))), packing, 2)
