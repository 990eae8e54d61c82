"""Rewards over word ids equal the metrics over strings, and pycocoevalcap's CIDEr-D, END counted as a word."""

from __future__ import annotations

import itertools

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from capgpu.metrics import bleu, cider
from capgpu.metrics.rewards import CaptionRewards

NULL, START, END, UNK = 0, 1, 2, 3


def random_captions(random, count, width, words, ended=0.9):
    """Draw captions of 0 to `width` words without START, most of them with END; few words, so that many repeat."""
    captions = np.full((count, width), NULL)
    for caption in captions:
        length = random.integers(0, width)
        caption[:length] = random.integers(END + 1, END + 1 + words, length)
        if random.random() < ended:
            caption[length] = END
    return captions


def texts(captions):
    return [[f"w{word}" for word in caption if word != NULL] for caption in captions]


def scene(seed, pictures, width, words):
    """Return candidates, the references with START and their pictures, and both as lists of words."""
    random = np.random.default_rng(seed)
    counts = random.integers(1, 6, pictures)
    images = random.permutation(np.repeat(np.arange(pictures) * 3, counts))
    references = random_captions(random, len(images), width, words, ended=1.0)
    candidates = random_captions(random, pictures, width + 2, words)
    groups = [texts(references[images == 3 * picture]) for picture in range(pictures)]
    with_start = np.column_stack([np.full(len(images), START), references])
    return candidates, with_start, images, groups


@hypothesis.given(
    seed=strategies.integers(0, 2**32),
    pictures=strategies.integers(2, 12),
    width=strategies.integers(1, 9),
    words=strategies.integers(1, 9),
)
def test_rewards_equal_the_metrics_over_strings(seed, pictures, width, words):
    candidates, references, images, groups = scene(seed, pictures, width, words)
    order = np.arange(pictures)
    rewards = {
        name: CaptionRewards(references, images, {name: 1.0}, NULL)(candidates, 3 * order)
        for name in ("CIDEr", "BLEU-4")
    }
    mixed = CaptionRewards(references, images, {"CIDEr": 2.0, "BLEU-4": -0.5}, NULL)(candidates, 3 * order)
    assert rewards["CIDEr"] == pytest.approx(cider(texts(candidates), groups).captions, rel=1e-10, abs=1e-12)
    assert rewards["BLEU-4"] == pytest.approx(bleu(texts(candidates), groups).captions[:, 3], rel=1e-10, abs=1e-14)
    assert mixed == pytest.approx(2 * rewards["CIDEr"] - 0.5 * rewards["BLEU-4"], rel=1e-10, abs=1e-12)


def test_rewards_equal_the_scores_of_pycocoevalcap():
    scorer = pytest.importorskip("pycocoevalcap.cider.cider_scorer").CiderScorer
    candidates, references, images, groups = scene(5, pictures=40, width=11, words=12)
    peer = scorer()
    for words, truths in zip(texts(candidates), groups, strict=True):
        peer += (" ".join(words), [" ".join(truth) for truth in truths])
    _, expected = peer.compute_score()
    rewards = CaptionRewards(references, images, {"CIDEr": 1.0}, NULL)
    assert expected.max() > 1
    assert rewards(candidates, 3 * np.arange(40)) == pytest.approx(expected, rel=1e-10, abs=1e-12)


def test_document_frequencies_are_those_of_all_references():
    candidates, references, images, groups = scene(7, pictures=30, width=8, words=10)
    rewards = CaptionRewards(references, images, {"CIDEr": 1.0}, NULL)
    chosen = np.array([3, 3, 17])
    everywhere = cider(texts(candidates), groups).captions
    assert rewards(candidates[chosen], 3 * chosen) == pytest.approx(everywhere[chosen], rel=1e-10, abs=1e-12)


def test_a_missing_end_costs_and_an_empty_caption_scores_nothing():
    references = np.array([[START, 3, 4, 5, END], [START, 6, 7, 8, END]])
    rewards = CaptionRewards(references, np.array([0, 1]), {"CIDEr": 1.0}, NULL)
    whole, cut, empty = rewards(np.array([[3, 4, 5, END], [3, 4, 5, NULL], [END, NULL, NULL, NULL]]), np.zeros(3, int))
    assert whole == pytest.approx(10.0)
    assert 0 < cut < whole
    assert empty == 0


def test_unknown_words_are_scored_as_words_that_occur_once() -> None:
    candidates, references, images, groups = scene(3, pictures=30, width=11, words=8)
    rewards = CaptionRewards(references, images, {"CIDEr": 1.0, "BLEU-4": 1.0}, NULL, unknown=[UNK])
    fresh = itertools.count()

    def spelt(words):
        return [f"other{next(fresh)}" if word == f"w{UNK}" else word for word in words]

    given, truths = [spelt(words) for words in texts(candidates)], [[spelt(words) for words in g] for g in groups]
    expected = cider(given, truths).captions + bleu(given, truths).captions[:, 3]
    assert (candidates == UNK).any()
    assert expected.max() > 1
    assert rewards(candidates, 3 * np.arange(30)) == pytest.approx(expected, rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(
    "weights", [{}, {"METEOR": 1.0}, *({"CIDEr": weight} for weight in (float("nan"), 0, -1.0, "1", None))]
)
def test_bad_weights_are_refused(weights):
    with pytest.raises((ValueError, TypeError), match=r"reward.*: expected"):
        CaptionRewards(np.array([[START, 3, END]]), np.array([0]), weights, NULL)


@pytest.mark.parametrize(
    ("captions", "images", "message"),
    [
        ([[3, END]], [7], "images: expected pictures that have references, got 7"),
        ([[3, END]], [-1], "images: expected pictures that have references, got -1"),
        ([[3, END]], [0, 0], "images: expected one for each of 1 captions, got 2"),
        ([3, END], [0, 0], r"captions: expected shape \(captions, words\)"),
        ([[3.0, END]], [0], "captions: expected a NumPy array of integers, got float64"),
    ],
)
def test_captions_that_cannot_be_scored_are_refused(captions, images, message):
    rewards = CaptionRewards(np.array([[START, 3, END], [START, 4, END]]), np.array([0, 2]), {"CIDEr": 1.0}, NULL)
    with pytest.raises((ValueError, TypeError), match=message):
        rewards(np.array(captions), np.array(images))
