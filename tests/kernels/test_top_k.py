"""The most probable next words, against sorting."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from capgpu.kernels.cpu import KERNELS as HOST
from capgpu.kernels.reference import KERNELS as REFERENCE
from oracles.numbers import TOLERANCE
from oracles.snapshots import frozen


def sorted_words(logits, count, barred, banned=None):
    """Sort each row's words; those that may not be chosen are left out."""
    log_probs = np.full((len(logits), count), -np.inf)
    words = np.zeros((len(logits), count), np.int32)
    for m, row in enumerate(logits.astype(np.float64)):
        never = set() if banned is None else set(banned[m].tolist())
        allowed = [word for word in range(len(row)) if not barred[word] and word not in never]
        best = sorted(allowed, key=lambda word: (-row[word], word))[:count]
        words[m, : len(best)] = best
        log_probs[m, : len(best)] = row[best] - np.logaddexp.reduce(row)
    return log_probs, words


def scores(random, rows, words, dtype):
    return (3 * random.standard_normal((rows, words))).astype(dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("rows", "words"), [(1, 1), (3, 7), (1, 33), (7, 3), (33, 1004), (2, 64), (2, 65)])
def test_top_words_agree_with_a_stable_sort(backend, random, dtype, rows, words):
    logits, barred = scores(random, rows, words, dtype), random.uniform(size=words) < 0.2
    barred[-1] = False
    banned = random.integers(0, words, (rows, 3)).astype(np.int32)
    kernels, arrays = backend.kernels(dtype), [backend.asarray(a) for a in (logits, barred, banned)]
    before = frozen(arrays)
    for count in {1, min(5, words), words if words < 100 else 40}:
        for forbidden, some in ((None, None), (banned, arrays[2])):
            log_probs, found = kernels.top_words(arrays[0], count, arrays[1], some)
            expected = sorted_words(logits, count, barred, forbidden)
            assert backend.to_numpy(found).tolist() == expected[1].tolist()
            assert backend.to_numpy(found).dtype == np.int32
            actual = backend.to_numpy(log_probs)
            assert actual.dtype == dtype
            assert np.array_equal(np.isfinite(actual), np.isfinite(expected[0]))
            is_finite = np.isfinite(actual)
            assert np.allclose(actual[is_finite], expected[0][is_finite], atol=10 * TOLERANCE[dtype]["forward"])
    assert frozen(arrays) == before


def test_equal_scores_are_ordered_by_word(backend):
    logits = backend.asarray(np.array([[1.0, 2.0, 2.0, 1.0, 2.0], [0.0, 0.0, 0.0, 0.0, 0.0]]))
    _, words = backend.kernels("float64").top_words(logits, 4, backend.asarray(np.zeros(5, bool)))
    assert backend.to_numpy(words).tolist() == [[1, 2, 4, 0], [0, 1, 2, 3]]


@hypothesis.given(data=strategies.data())
@hypothesis.settings(max_examples=60, deadline=None)
def test_the_hosts_kernel_agrees_with_the_reference(data):
    rows, words = data.draw(strategies.integers(1, 5)), data.draw(strategies.integers(1, 200))
    count = data.draw(strategies.integers(1, words))
    random = np.random.default_rng(data.draw(strategies.integers(0, 2**32)))
    # few different scores: many are equal
    logits = random.integers(-3, 3, (rows, words)).astype(np.float32)
    barred = random.uniform(size=words) < data.draw(strategies.sampled_from([0.0, 0.5, 1.0]))
    banned = random.integers(0, words, (rows, data.draw(strategies.integers(0, 4)))).astype(np.int32)
    actual, expected = (kernels.top_words(logits, count, barred, banned) for kernels in (HOST, REFERENCE))
    assert actual[1].tolist() == expected[1].tolist()
    assert np.allclose(actual[0], expected[0], atol=1e-5)
