from __future__ import annotations

import numpy as np
import pytest

from bench import stats


def test_slices_have_equal_weight_regardless_of_their_steps() -> None:
    summary = stats.summarise([[1.0] * 100, [3.0], [2.0]])
    assert (summary.median, summary.minimum, summary.samples) == (2.0, 1.0, 102)


def test_spread_of_a_single_slice_is_that_of_its_samples() -> None:
    assert stats.summarise([[1.0, 2.0, 3.0, 4.0, 5.0]]).iqr == 2.0


def test_drift_of_the_machine_cancels_in_paired_ratios() -> None:
    drift = [1.0, 1.7, 0.4, 3.0]
    ours = [[1.0 * d, 1.1 * d, 0.9 * d] for d in drift]
    theirs = [[2.0 * d] for d in drift]
    assert stats.paired_ratio(ours, theirs) == pytest.approx(0.5)


def test_slices_without_samples_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one slice"):
        stats.summarise([])
    with pytest.raises(ValueError, match="at least one slice"):
        stats.summarise([[1.0], []])
    with pytest.raises(ValueError, match="got 1 and 2"):
        stats.paired_ratio([[1.0]], [[1.0], [1.0]])


def test_worst_error_is_the_largest_relative_error_of_the_arrays() -> None:
    expected = {"a": np.array([3.0, 4.0]), "b": np.array([100.0])}
    actual = {"a": np.array([3.0, 4.5]), "b": np.array([101.0])}
    assert stats.worst_error(actual, expected) == pytest.approx(0.1)


def test_worst_error_of_a_missing_or_misshapen_array_is_refused() -> None:
    with pytest.raises(ValueError, match="b: expected shape"):
        stats.worst_error({"a": np.ones(2)}, {"b": np.ones(2)})
    with pytest.raises(ValueError, match="a: expected shape"):
        stats.worst_error({"a": np.ones((2, 1))}, {"a": np.ones(2)})


def test_disagreement_is_the_share_of_differing_words() -> None:
    assert stats.disagreement({"w": np.array([1, 2, 3, 4])}, {"w": np.array([1, 2, 9, 4])}) == 0.25
