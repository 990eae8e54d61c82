"""BLEU: precision of the n-grams that a caption shares with its references."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidValueError
from capgpu.metrics.corpus import Corpus, Ints, Words, encode_corpus, split_words
from capgpu.metrics.ngrams import SharedNgrams, shared_ngrams

__all__ = ["BleuScore", "bleu", "clipped_matches", "corpus_bleu", "score_counts", "score_matches"]


class BleuScore(NamedTuple):
    """BLEU-1 to BLEU-n of a corpus and of each caption in it.

    Attributes
    ----------
    corpus : list of float
        n scores of all captions together: not the means of those below.
    captions : numpy.ndarray of float64, shape (N, n)
        The n scores of each caption.
    """

    corpus: list[float]
    captions: npt.NDArray[np.float64]


# COCO's evaluation adds these to each numerator and denominator: no precision is 0 / 0 and none is exactly 0
_TINY, _SMALL = 1e-15, 1e-9


def corpus_bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]], max_n: int = 4) -> list[float]:
    """Compute BLEU-1 to BLEU-n of a corpus as COCO's caption evaluation does.

    Clipped n-gram counts and lengths are summed over the corpus before any division. The brevity penalty compares
    each caption's length with that of the reference closest in length (the shorter of two equally close).

    Parameters
    ----------
    captions : sequence of N captions
        The captions to evaluate, each a list of words; an empty caption is allowed.
    references : sequence of N sequences of captions
        The reference captions of each picture, at least one.
    max_n : int
        Length of the longest n-grams.

    Returns
    -------
    list of float
        BLEU-1, ..., BLEU-`max_n`, each in [0, 1]. A score without a match is tiny and not 0, as in COCO's evaluation.

    Raises
    ------
    TypeError
        For a caption that is a string: it would be evaluated letter by letter.
    ValueError
        For no captions, unequal lengths, a picture without references, or `max_n` below 1.

    Notes
    -----
    K. Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002;
    X. Chen et al., "Microsoft COCO Captions: Data Collection and Evaluation Server", 2015.
    """
    return bleu(captions, references, max_n).corpus


def bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]], max_n: int = 4) -> BleuScore:
    """Compute BLEU-1 to BLEU-n of a corpus (see `corpus_bleu`) and of each caption.

    Parameters
    ----------
    captions, references, max_n
        As for `corpus_bleu`.

    Returns
    -------
    BleuScore
        All in [0, 1].

    Raises
    ------
    TypeError, ValueError
        As for `corpus_bleu`.
    """
    if max_n < 1:
        raise InvalidValueError(f"max_n: expected at least 1, got {max_n}.")
    corpus = split_words(encode_corpus(captions, references))
    return score_matches(corpus, [clipped_matches(corpus, shared) for shared in shared_ngrams(corpus, max_n)])


def clipped_matches(corpus: Corpus, shared: SharedNgrams) -> Ints:
    """Count the n-grams of each caption, each at most as often as one of its references contains it.

    Parameters
    ----------
    corpus : Corpus
        As from `split_words`.
    shared : SharedNgrams
        The corpus's n-grams of one length.

    Returns
    -------
    numpy.ndarray of int64, shape (N,)
        A count for each caption.
    """
    max_counts = np.zeros(len(shared.counts), np.int64)  # largest count in a single reference
    np.maximum.at(max_counts, shared.gram, shared.found)
    clipped = np.minimum(shared.counts, max_counts)
    return np.bincount(shared.caption, weights=clipped, minlength=corpus.count).astype(np.int64)


def score_matches(corpus: Corpus, matches: Sequence[Ints]) -> BleuScore:
    """Compute BLEU (see `corpus_bleu`) from counted matches.

    Parameters
    ----------
    corpus : Corpus
        As from `split_words`.
    matches : sequence of n arrays, shape (N,)
        As from `clipped_matches`, for n-grams of 1, 2, ... words.

    Returns
    -------
    BleuScore
        All in [0, 1].
    """
    match_counts = np.stack(matches, axis=1)
    lengths = corpus.lengths[: corpus.count]
    totals = np.maximum(lengths[:, None] - np.arange(len(matches)), 0)
    closest = _closest_lengths(corpus)
    corpus_scores = _bleu(*(part.sum(axis=0, keepdims=True) for part in (match_counts, totals, lengths, closest)))
    return BleuScore(corpus_scores[0].tolist(), score_counts(match_counts, lengths, closest))


def _closest_lengths(corpus: Corpus) -> Ints:
    """Return the length of the reference closest in length to each caption, the shorter of two, shape (N,)."""
    image, lengths = corpus.image[corpus.count :], corpus.lengths[corpus.count :]
    distance = np.abs(lengths - corpus.lengths[image])
    base = int(lengths.max()) + 1
    closest: Ints = np.minimum.reduceat(distance * base + lengths, corpus.first_references) % base
    return closest


def score_counts(matches: Ints, lengths: Ints, closest: Ints) -> npt.NDArray[np.float64]:
    """Compute BLEU (see `corpus_bleu`) from the counts of captions, each by itself.

    Parameters
    ----------
    matches : numpy.ndarray of int64, shape (N, n)
        Clipped matches of n-grams of 1, 2, ... words.
    lengths, closest : numpy.ndarray of int64, shape (N,)
        Length of each caption, and of its reference closest in length.

    Returns
    -------
    numpy.ndarray of float64, shape (N, n)
        BLEU-1 to BLEU-n of each caption.
    """
    totals = np.maximum(lengths[:, None] - np.arange(matches.shape[1]), 0)
    return _bleu(matches, totals, lengths, closest)


def _bleu(matches: Ints, totals: Ints, lengths: Ints, closest: Ints) -> npt.NDArray[np.float64]:
    """Compute BLEU-1 to BLEU-n of each row of counts."""
    logs = np.cumsum(np.log((matches + _TINY) / (totals + _SMALL)), axis=1)
    ratio = (lengths + _TINY) / (closest + _SMALL)
    penalty = np.minimum(1 - 1 / ratio, 0.0)
    scores: npt.NDArray[np.float64] = np.exp(logs / np.arange(1, matches.shape[1] + 1) + penalty[:, None])
    return scores
