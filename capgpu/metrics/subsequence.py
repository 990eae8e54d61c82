"""ROUGE-L: the longest common subsequence of a caption and its references."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from capgpu.metrics.corpus import Corpus, Ints, MetricScore, Words, look_up, read_corpus

__all__ = ["rouge_l", "score_rouge_l"]

_BETA = 1.2  # recall weighs more than precision, as in COCO's evaluation
_BITS = 64


def rouge_l(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> MetricScore:
    """Compute ROUGE-L as COCO's caption evaluation does.

    With the longest common subsequences of a caption and each of its references: the F-measure of the largest
    precision and the largest recall, which may come from two references, recall weighing 1.2 times as much; the
    mean over captions.

    Parameters
    ----------
    captions, references
        As for `corpus_bleu`.

    Returns
    -------
    MetricScore
        From 0 to 1. An empty caption counts as right where a reference is empty, too.

    Raises
    ------
    TypeError, ValueError
        As for `corpus_bleu`.

    Notes
    -----
    C.-Y. Lin, "ROUGE: a Package for Automatic Evaluation of Summaries", 2004. All subsequences are computed at once,
    each with the bits of one number: H. Hyyrö, "Bit-parallel LCS-length computation revisited", 2004.
    """
    return score_rouge_l(read_corpus(captions, references))


def score_rouge_l(corpus: Corpus) -> MetricScore:
    """Compute ROUGE-L, see `rouge_l`, of a corpus that is read.

    Parameters
    ----------
    corpus : Corpus
        As from `read_corpus`.

    Returns
    -------
    MetricScore
        From 0 to 1.
    """
    common = _common_lengths(corpus)
    image, lengths = corpus.image[corpus.count :], np.maximum(corpus.lengths, 1)
    precision = np.maximum.reduceat(common / lengths[image], corpus.firsts)
    recall = np.maximum.reduceat(common / lengths[corpus.count :], corpus.firsts)
    above, below = (1 + _BETA**2) * precision * recall, recall + _BETA**2 * precision
    scores = np.divide(above, below, out=np.zeros_like(above), where=below > 0)
    return MetricScore(float(scores.mean()), scores)


def _common_lengths(corpus: Corpus) -> Ints:
    """Compute the length of the longest common subsequence of each reference and its caption, shape (R,)."""
    image, lengths = corpus.image[corpus.count :], corpus.lengths[corpus.count :]
    first = np.cumsum(corpus.lengths) - corpus.lengths
    bits = np.arange(corpus.own) - first[corpus.sentence[: corpus.own]]
    keys = corpus.image_words
    table, own = np.unique(keys[: corpus.own], return_inverse=True)
    masks = np.zeros(len(table) + 1, np.uint64)  # of each word of a caption: where it stands; the last for no word
    short = bits < _BITS
    np.bitwise_or.at(masks, own[short], np.left_shift(np.uint64(1), bits[short].astype(np.uint64)))
    masks = masks[look_up(table, keys[corpus.own :])]
    order = np.argsort(-lengths, kind="stable")
    starts = first[corpus.count :][order] - corpus.own
    active = np.searchsorted(-lengths[order], -np.arange(lengths.max(initial=0)), side="left")
    states = np.full(len(lengths), ~np.uint64(0))
    for step, count in enumerate(active.tolist()):
        state = states[:count]
        matched = state & masks[starts[:count] + step]
        states[:count] = (state + matched) | (state - matched)
    common = np.empty(len(lengths), np.int64)
    width = np.minimum(corpus.lengths[image[order]], _BITS)
    # a shift by all 64 bits is undefined: an empty caption is cleared below
    low = ~np.uint64(0) >> (_BITS - np.maximum(width, 1)).astype(np.uint64)
    common[order] = np.bitwise_count(~states & low)
    common[corpus.lengths[image] == 0] = 0
    for pair in np.flatnonzero(corpus.lengths[image] > _BITS):
        sentences = (corpus.words[first[s] : first[s] + corpus.lengths[s]] for s in (image[pair], corpus.count + pair))
        common[pair] = _common_length(*(sentence.tolist() for sentence in sentences))
    common[(corpus.lengths[image] == 0) & (lengths == 0)] = 1
    return common


def _common_length(one: list[int], other: list[int]) -> int:
    """Do the same for one pair of any length, with a number of as many bits as `one` has words."""
    masks: dict[int, int] = {}
    for bit, word in enumerate(one):
        masks[word] = masks.get(word, 0) | 1 << bit
    full = (1 << len(one)) - 1
    state = full
    for word in other:
        matched = state & masks.get(word, 0)
        state = ((state + matched) | (state - matched)) & full
    return len(one) - state.bit_count()
