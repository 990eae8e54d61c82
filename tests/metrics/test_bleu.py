"""BLEU and exact match against values worked out by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgpu.metrics import bleu, cider, cider_unpenalized, coco_scores, corpus_bleu, exact_match, rouge_l
from oracles.bleu import plain_bleu

words = st.lists(st.sampled_from("abcd"), min_size=4, max_size=9)


def split(*texts: str) -> list[list[str]]:
    return [text.split() for text in texts]


def test_counts_are_clipped_by_the_largest_count_in_a_reference() -> None:
    # Papineni et al. 2002, example 2: modified unigram precision 2/7; lengths are equal
    scores = corpus_bleu(
        split("the the the the the the the"),
        [split("the cat is on the mat", "there is a cat on the mat")],
        max_n=1,
    )
    assert scores == [pytest.approx(2 / 7, rel=1e-8)]


def test_counts_are_summed_over_the_corpus_before_dividing() -> None:
    scores = corpus_bleu(split("a b c d", "x y"), [split("a b c d"), split("a y")])
    assert scores[0] == pytest.approx(5 / 6, rel=1e-8)
    assert scores[1] == pytest.approx(math.sqrt(5 / 6 * 3 / 4), rel=1e-8)
    assert scores[2] == pytest.approx((5 / 6 * 3 / 4 * 2 / 2) ** (1 / 3), rel=1e-8)
    assert scores[3] == pytest.approx((5 / 6 * 3 / 4 * 2 / 2 * 1 / 1) ** (1 / 4), rel=1e-8)


def test_short_captions_get_the_brevity_penalty() -> None:
    scores = corpus_bleu(split("a b c"), [split("a b c d e f")], max_n=3)
    assert scores == pytest.approx([math.exp(1 - 6 / 3)] * 3, rel=1e-6)


def test_long_captions_get_no_brevity_penalty() -> None:
    assert corpus_bleu(split("a b c x"), [split("a b c")], max_n=1) == [pytest.approx(3 / 4, rel=1e-8)]


def test_of_two_equally_close_references_the_shorter_sets_the_length() -> None:
    references = [split("a b c d e", "a b c")]
    assert corpus_bleu(split("a b c d"), references, max_n=1) == [pytest.approx(1.0, rel=1e-8)]


def test_closest_length_is_chosen_caption_by_caption() -> None:
    # 2 of (2, 6) and 6 of (2, 6): no penalty; the corpus sums of either choice alone would give one
    references = [split("a b", "a b c d e f")] * 2
    scores = corpus_bleu(split("a b", "a b c d e f"), references, max_n=1)
    assert scores == [pytest.approx(1.0, rel=1e-8)]


def test_without_a_match_the_score_is_almost_zero() -> None:
    scores = corpus_bleu(split("x y z w"), [split("a b c d")])
    assert max(scores) < 1e-14


@pytest.mark.parametrize("captions", [[[]], [[], ["a"]]])
def test_empty_captions_are_scored(captions: list[list[str]]) -> None:
    scores = corpus_bleu(captions, [split("a b c d e")] * len(captions))
    assert all(0 <= score < 0.01 for score in scores)


@given(st.lists(words, min_size=1, max_size=5))
def test_a_reference_as_caption_scores_one(captions: list[list[str]]) -> None:
    references = [[caption] for caption in captions]
    assert corpus_bleu(captions, references) == pytest.approx([1.0] * 4, rel=1e-6)
    assert exact_match(captions, references) == 1.0


repetitive = st.lists(st.sampled_from("abc"), max_size=12)


@given(
    st.lists(st.tuples(repetitive, st.lists(repetitive, min_size=1, max_size=3)), min_size=1, max_size=5),
    st.integers(1, 5),
)
def test_scores_equal_those_counted_with_dictionaries(
    pictures: list[tuple[list[str], list[list[str]]]], max_n: int
) -> None:
    captions, references = [own for own, _ in pictures], [truths for _, truths in pictures]
    score = bleu(captions, references, max_n)
    assert score.corpus == pytest.approx(plain_bleu(captions, references, max_n), rel=1e-9, abs=1e-30)
    assert score.corpus == corpus_bleu(captions, references, max_n)
    for i, own in enumerate(score.captions.tolist()):
        assert own == pytest.approx(plain_bleu(captions[i : i + 1], references[i : i + 1], max_n), rel=1e-9, abs=1e-30)


@given(st.lists(st.tuples(words, words), min_size=1, max_size=5))
def test_scores_lie_between_zero_and_one_and_do_not_depend_on_the_order(
    pairs: list[tuple[list[str], list[str]]],
) -> None:
    scores = corpus_bleu([caption for caption, _ in pairs], [[truth] for _, truth in pairs])
    turned = corpus_bleu([caption for caption, _ in pairs[::-1]], [[truth] for _, truth in pairs[::-1]])
    assert all(0 <= score <= 1 for score in scores)
    assert turned == pytest.approx(scores, rel=1e-12)


def test_exact_match_requires_every_word_of_one_reference() -> None:
    references = [split("a b", "c d"), split("a b"), split("a b"), split("a b")]
    assert exact_match(split("c d", "a b", "a", "b a"), references) == 0.5


def test_exact_match_accepts_lists_and_tuples_of_words() -> None:
    assert exact_match([("a", "b")], [[["a", "b"]]]) == 1.0


@pytest.mark.parametrize("metric", [corpus_bleu, exact_match, rouge_l, cider, cider_unpenalized, coco_scores])
@pytest.mark.parametrize(
    ("captions", "references", "error", "message"),
    [
        ([], [], ValueError, "expected at least one caption, got none"),
        (split("a"), [], ValueError, "each of 1 captions, got 0"),
        (split("a"), [[]], ValueError, r"references\[0\]: expected at least one caption"),
        (["a cat"], [split("a cat")], TypeError, "tokenize"),
        (split("a cat"), [["a cat"]], TypeError, r"references\[0\]\[0\]: expected .* got the string 'a cat'.*tokenize"),
        (
            split("a", "b"),
            [[["a"]], [["b"], "b"]],
            TypeError,
            r"references\[1\]\[1\]: expected a list of words, got the string",
        ),
    ],
)
def test_bad_input_is_refused(metric, captions, references, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        metric(captions, references)


def test_bleu_of_no_ngrams_is_refused() -> None:
    with pytest.raises(ValueError, match="max_n: expected at least 1, got 0"):
        corpus_bleu(split("a"), [split("a")], max_n=0)
