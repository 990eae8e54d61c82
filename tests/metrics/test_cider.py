"""CIDEr, with the penalties of COCO's evaluation and without, against the paper, written out plainly."""

from __future__ import annotations

import importlib
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgpu.metrics import cider, cider_unpenalized
from oracles.caption_scores import CAPTIONS, REFERENCES
from oracles.cider import plain_cider

sentences = st.lists(st.sampled_from(["a", "b", "c", "a\u00a0b", "d"]), max_size=9)
pictures = st.lists(st.tuples(sentences, st.lists(sentences, min_size=1, max_size=3)), min_size=1, max_size=6)


def plain(words: list[str]) -> list[str]:
    return " ".join(words).split()


@given(pictures, st.sampled_from([0.5, 6.0]))
def test_cider_d_follows_the_paper_with_cocos_lengths(drawn, sigma):
    captions, references = [own for own, _ in drawn], [truths for _, truths in drawn]
    expected = plain_cider(
        [plain(own) for own in captions],
        [[plain(own) for own in truths] for truths in references],
        clipped=True,
        sigma=sigma,
    )
    score = cider(captions, references, sigma=sigma)
    np.testing.assert_allclose(score.captions, expected, rtol=0, atol=1e-9)
    assert score.corpus == pytest.approx(sum(expected) / len(expected), abs=1e-9)


@pytest.mark.parametrize("words_at_once", [1, 2, 7, 1000])
def test_the_block_size_does_not_change_the_scores(words_at_once, monkeypatch):
    random = np.random.default_rng(2)
    drawn = [[random.choice(list("abcd"), random.integers(0, 9)).tolist() for _ in range(4)] for _ in range(12)]
    captions, references = [own[0] for own in drawn], [own[1:] for own in drawn]
    expected = plain_cider(captions, references, clipped=False, sigma=None)
    # the package's attribute of that name is the function
    monkeypatch.setattr(importlib.import_module("capgpu.metrics.cider"), "_WORDS_AT_ONCE", words_at_once)
    np.testing.assert_allclose(cider_unpenalized(captions, references).captions, expected, rtol=0, atol=1e-9)


@given(pictures)
def test_cider_is_ten_times_the_papers(drawn):
    captions, references = [own for own, _ in drawn], [truths for _, truths in drawn]
    expected = plain_cider(
        [plain(own) for own in captions],
        [[plain(own) for own in truths] for truths in references],
        clipped=False,
        sigma=None,
    )
    np.testing.assert_allclose(cider_unpenalized(captions, references).captions, expected, rtol=0, atol=1e-9)


def test_a_caption_that_is_the_only_reference_scores_ten():
    captions = [["a", "dog", "runs", "fast"], ["two", "cats", "sleep", "here"]]
    assert cider_unpenalized(captions, [[own] for own in captions]).captions == pytest.approx([10, 10])
    assert cider(captions, [[own] for own in captions]).captions == pytest.approx([10, 10])


def test_repeating_a_rare_word_raises_the_score_only_without_penalties():
    references = [[["a", "zebra", "eats", "grass"]], [["a", "man", "eats", "bread"]]]
    once, often = [["zebra"], ["man"]], [["zebra"] * 4, ["man"]]
    assert cider_unpenalized(once, references).captions[0] == pytest.approx(
        cider_unpenalized(often, references).captions[0]
    )
    lengths = math.exp(-(0**2) / 72) / math.exp(-(3**2) / 72)
    ratio = cider(often, references).captions[0] / cider(once, references).captions[0]
    assert ratio == pytest.approx(lengths / 4)  # the norm counts four zebras, the match one


def test_a_single_picture_scores_zero():
    assert cider_unpenalized(CAPTIONS[:1], REFERENCES[:1]).corpus == 0
    assert cider(CAPTIONS[:1], REFERENCES[:1]).corpus == 0


@pytest.mark.parametrize("sigma", [0, -1.0, math.nan])
def test_a_sigma_out_of_range_is_refused(sigma):
    with pytest.raises(ValueError, match="sigma: expected"):
        cider(CAPTIONS, REFERENCES, sigma=sigma)
