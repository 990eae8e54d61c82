"""Random next words, against a plain inversion of the cumulative sum."""

from __future__ import annotations

import numpy as np
import pytest

from oracles.numbers import TOLERANCE
from oracles.snapshots import frozen


def plain_draw(logits, numbers, temperature, barred, banned):
    """Draw a word of each row in float64; also return how far the number is from the nearest limit between words."""
    words, log_probs, margins = [], [], []
    for m, row in enumerate(logits.astype(np.float64)):
        allowed = ~barred.copy()
        allowed[banned[m]] = False
        weights = np.where(allowed, np.exp((row - row[allowed].max()) / temperature), 0)
        sums = np.cumsum(weights) / weights.sum()
        word = int(np.flatnonzero((sums > numbers[m]) & (weights > 0))[0])
        words.append(word)
        log_probs.append(row[word] - np.logaddexp.reduce(row))
        margins.append(np.abs(sums - numbers[m]).min())
    return np.array(words), np.array(log_probs), np.array(margins)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("temperature", "rows", "words"), [(1.0, 1, 1), (5.0, 7, 3), (1.0, 33, 1004), (0.3, 33, 1004)])
def test_drawn_words_agree_with_a_plain_inversion(backend, random, dtype, temperature, rows, words):
    logits = (3 * random.standard_normal((rows, words))).astype(dtype)
    logits[0, -1] += 200  # the rest of this row has no weight, unless its last word is left out
    barred = random.uniform(size=words) < 0.2
    barred[words // 2] = False
    banned = random.integers(0, words, (rows, 3)).astype(np.int32)
    banned[banned == words // 2] = np.flatnonzero(barred)[0] if barred.any() else (0 if words > 1 else -1)
    if words == 1:
        banned = banned[:, :0]
    numbers = (random.integers(0, 2**24, rows) / 2**24).astype(dtype)
    arrays = [backend.asarray(a) for a in (logits, numbers, barred, banned)]
    before = frozen(arrays)
    log_probs, found = backend.kernels(dtype).draw_words(arrays[0], arrays[1], temperature, *arrays[2:])
    expected, expected_log_probs, margins = plain_draw(logits, numbers, temperature, barred, banned)
    found, log_probs = backend.to_numpy(found), backend.to_numpy(log_probs)
    assert (found.dtype, log_probs.dtype) == (np.int32, np.dtype(dtype))
    clear = margins > 10 * TOLERANCE[dtype]["forward"]
    assert clear.mean() > 0.5 or words == 1
    assert found[clear].tolist() == expected[clear].tolist()
    assert np.allclose(log_probs[clear], expected_log_probs[clear], atol=30 * TOLERANCE[dtype]["forward"])
    assert frozen(arrays) == before


def test_the_number_of_threads_draws_the_same_words(shared_by, random):
    from capgpu.kernels.cpu import KERNELS
    from oracles.pools import await_workers

    logits = random.standard_normal((37, 300)).astype(np.float32)
    numbers, barred = random.uniform(size=37).astype(np.float32), np.zeros(300, bool)
    results = []
    for threads in (1, 2, 3):
        await_workers(shared_by(threads))
        results.append(frozen(KERNELS.draw_words(logits, numbers, 0.7, barred)))
    assert results[1:] == results[:1] * 2


def test_nothing_is_drawn_from_scores_that_are_not_numbers(backend):
    logits = backend.asarray(np.full((2, 5), np.nan, np.float32))
    numbers, barred = backend.asarray(np.zeros(2, np.float32)), backend.asarray(np.zeros(5, bool))
    log_probs, words = backend.kernels("float32").draw_words(logits, numbers, 1.0, barred)
    assert np.isnan(backend.to_numpy(log_probs)).all()
    assert backend.to_numpy(words).tolist() == [0, 0]
