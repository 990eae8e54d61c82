"""ROUGE-L: the longest common subsequence of a caption and its references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from capgpu.metrics.corpus import Corpus, Ints, MetricScore, Words, encode_corpus, look_up

__all__ = ["rouge_l", "score_rouge_l"]

_BETA = 1.2  # recall weighs more than precision, as in COCO's evaluation
_BITS = 64


def rouge_l(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> MetricScore:
    """Compute ROUGE-L as COCO's caption evaluation does.

    The score of a caption is the F-measure (beta = 1.2) of its largest precision and its largest recall over the
    references, which may come from different references; precision and recall are the length of the longest common
    subsequence divided by that of the caption and of the reference. The corpus score is the mean over captions.

    Parameters
    ----------
    captions, references
        As for `corpus_bleu`.

    Returns
    -------
    MetricScore
        From 0 to 1. An empty caption scores 1 if a reference is empty.

    Raises
    ------
    TypeError, ValueError
        As for `corpus_bleu`.

    Notes
    -----
    C.-Y. Lin, "ROUGE: a Package for Automatic Evaluation of Summaries", 2004. The subsequences of all pairs are
    computed together, each in the bits of one integer: H. Hyyrö, "Bit-parallel LCS-length computation revisited",
    2004.
    """
    return score_rouge_l(encode_corpus(captions, references))


def score_rouge_l(corpus: Corpus) -> MetricScore:
    """Compute ROUGE-L (see `rouge_l`) of an encoded corpus.

    Parameters
    ----------
    corpus : Corpus
        As from `encode_corpus`.

    Returns
    -------
    MetricScore
        From 0 to 1.
    """
    lcs_lengths = _common_lengths(corpus)
    image, lengths = corpus.image[corpus.count :], np.maximum(corpus.lengths, 1)
    precision = np.maximum.reduceat(lcs_lengths / lengths[image], corpus.first_references)
    recall = np.maximum.reduceat(lcs_lengths / lengths[corpus.count :], corpus.first_references)
    numerator, denominator = (1 + _BETA**2) * precision * recall, recall + _BETA**2 * precision
    scores = np.divide(numerator, denominator, out=np.zeros_like(numerator), where=denominator > 0)
    return MetricScore(float(scores.mean()), scores)


def _common_lengths(corpus: Corpus) -> Ints:
    """Compute the length of the longest common subsequence of each reference and its caption, shape (R,)."""
    image, lengths = corpus.image[corpus.count :], corpus.lengths[corpus.count :]
    first = np.cumsum(corpus.lengths) - corpus.lengths
    bits = np.arange(corpus.n_caption_words) - first[corpus.sentence[: corpus.n_caption_words]]
    keys = corpus.image_words
    table, word_of_bit = np.unique(keys[: corpus.n_caption_words], return_inverse=True)
    masks = np.zeros(len(table) + 1, np.uint64)  # positions of each caption word; the last entry is for unknown words
    short = bits < _BITS
    np.bitwise_or.at(masks, word_of_bit[short], np.left_shift(np.uint64(1), bits[short].astype(np.uint64)))
    masks = masks[look_up(table, keys[corpus.n_caption_words :])]
    order = np.argsort(-lengths, kind="stable")
    starts = first[corpus.count :][order] - corpus.n_caption_words
    active = np.searchsorted(-lengths[order], -np.arange(lengths.max(initial=0)), side="left")
    states = np.full(len(lengths), ~np.uint64(0))
    for step, count in enumerate(active.tolist()):
        state = states[:count]
        matched = state & masks[starts[:count] + step]
        states[:count] = (state + matched) | (state - matched)
    lcs_lengths = np.empty(len(lengths), np.int64)
    width = np.minimum(corpus.lengths[image[order]], _BITS)
    # a shift by all 64 bits is undefined: pairs with an empty caption are set below
    low = ~np.uint64(0) >> (_BITS - np.maximum(width, 1)).astype(np.uint64)
    lcs_lengths[order] = np.bitwise_count(~states & low)
    lcs_lengths[corpus.lengths[image] == 0] = 0
    for pair in np.flatnonzero(corpus.lengths[image] > _BITS):
        sentences = (corpus.words[first[s] : first[s] + corpus.lengths[s]] for s in (image[pair], corpus.count + pair))
        lcs_lengths[pair] = _common_length(*(sentence.tolist() for sentence in sentences))
    lcs_lengths[(corpus.lengths[image] == 0) & (lengths == 0)] = 1
    return lcs_lengths


def _common_length(one: list[int], reference: list[int]) -> int:
    """Compute the same for one pair of any length, in a Python integer of ``len(one)`` bits."""
    masks: dict[int, int] = {}
    for bit, word in enumerate(one):
        masks[word] = masks.get(word, 0) | 1 << bit
    full = (1 << len(one)) - 1
    state = full
    for word in reference:
        matched = state & masks.get(word, 0)
        state = ((state + matched) | (state - matched)) & full
    return len(one) - state.bit_count()
