"""ROUGE-L against subsequences found by trying."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgpu.metrics import rouge_l

words = st.lists(st.sampled_from("abc"), max_size=7)


def longest_common(one: list[str], other: list[str]) -> int:
    """Try every subsequence of one."""
    for length in range(len(one), 0, -1):
        for chosen in combinations(one, length):
            rest = iter(other)
            if all(word in rest for word in chosen):
                return length
    return 0


def f_measure(caption: list[str], truths: list[list[str]]) -> float:
    common = [longest_common(caption, truth) if caption or truth else 1 for truth in truths]
    precision = max(common) / max(len(caption), 1)
    recall = max(length / max(len(truth), 1) for length, truth in zip(common, truths, strict=True))
    return (1 + 1.44) * precision * recall / (recall + 1.44 * precision) if precision else 0.0


@given(st.lists(st.tuples(words, st.lists(words, min_size=1, max_size=3)), min_size=1, max_size=5))
def test_scores_equal_those_of_a_brute_force_search(pictures):
    score = rouge_l([caption for caption, _ in pictures], [truths for _, truths in pictures])
    expected = [f_measure(caption, truths) for caption, truths in pictures]
    np.testing.assert_allclose(score.captions, expected, rtol=0, atol=1e-12)
    assert score.corpus == pytest.approx(sum(expected) / len(expected), abs=1e-12)


@pytest.mark.parametrize("length", [1, 63, 64, 65, 128, 200])
@pytest.mark.parametrize("other", [1, 64, 150])
def test_captions_longer_than_a_machine_word_are_scored(length, other):
    numbers = np.random.default_rng(length * 1000 + other)
    caption, truth = (numbers.integers(0, 5, size).astype(str).tolist() for size in (length, other))
    table = np.zeros((length + 1, other + 1), int)
    for i in range(length):
        for j in range(other):
            table[i + 1, j + 1] = table[i, j] + 1 if caption[i] == truth[j] else max(table[i, j + 1], table[i + 1, j])
    precision, recall = table[-1, -1] / length, table[-1, -1] / other
    expected = 2.44 * precision * recall / (recall + 1.44 * precision) if precision else 0.0
    # beside a short one: both ways are taken at once
    score = rouge_l([caption, ["x"]], [[truth], [["x"]]])
    assert score.captions.tolist() == pytest.approx([expected, 1.0])


def test_precision_and_recall_may_come_from_different_references():
    # "a b c d": precision 4/4 from the long one, recall 1/1 from the short one
    score = rouge_l([["a", "b", "c", "d"]], [[["a", "x", "b", "y", "c", "z", "d"], ["a"]]])
    assert score.corpus == pytest.approx(1.0)
