"""CIDEr and CIDEr-D: n-grams that tell pictures apart count more."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence

import numpy as np
import numpy.typing as npt

from capgpu.metrics.corpus import Corpus, Ints, MetricScore, Words, pair_up, read_corpus, split_words
from capgpu.metrics.shared import shared_ngrams

__all__ = ["cider", "cider_d", "score_cider_d"]

Floats = npt.NDArray[np.float64]

_MAX_N = 4
_SCALE = 10.0  # the authors' code, and the paper for CIDEr-D: figures of the size of other metrics'


def cider(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> MetricScore:
    """Compute CIDEr: the cosine between a caption's weighted n-grams and its references'.

    An n-gram weighs its count times log(pictures / pictures that have it in a reference); the mean over
    references and over n = 1 to 4, times 10.

    Parameters
    ----------
    captions, references
        As for `corpus_bleu`.

    Returns
    -------
    MetricScore
        From 0 to 10. All of them are 0 for a single picture: nothing tells it apart.

    Raises
    ------
    TypeError, ValueError
        As for `corpus_bleu`.

    Notes
    -----
    R. Vedantam, C. L. Zitnick and D. Parikh, "CIDEr: Consensus-based Image Description Evaluation", 2015,
    equations 1 to 3, times 10 as in the authors' code, and without the stemming of words, which that code leaves out.
    """
    corpus = split_words(read_corpus(captions, references))
    return _mean(corpus, _cosines(corpus, clipped=False))


def cider_d(captions: Sequence[Words], references: Sequence[Sequence[Words]], *, sigma: float = 6.0) -> MetricScore:
    """Compute CIDEr-D, the CIDEr of COCO's evaluation: harder to game by length and repetition.

    As `cider`, but an n-gram counts at most as often as the reference has it, and a difference in length costs a
    factor exp(-difference² / (2 sigma²)).

    Parameters
    ----------
    captions, references
        As for `corpus_bleu`.
    sigma : float
        The difference in length that costs 40%, in words.

    Returns
    -------
    MetricScore
        From 0 to 10. All of them are 0 for a single picture: nothing tells it apart.

    Raises
    ------
    TypeError
        As for `corpus_bleu`.
    ValueError
        As for `corpus_bleu`, and for `sigma` that is not above 0.

    Notes
    -----
    R. Vedantam, C. L. Zitnick and D. Parikh, "CIDEr: Consensus-based Image Description Evaluation", 2015,
    equation 4. As in COCO's evaluation, which calls it CIDEr, counts are not divided by the caption's length, and
    lengths are counted in pairs of words.
    """
    if not sigma > 0:
        raise ValueError(f"sigma is {sigma}; wanted a length above 0, in words.")
    return score_cider_d(split_words(read_corpus(captions, references)), sigma)


def score_cider_d(corpus: Corpus, sigma: float = 6.0) -> MetricScore:
    """Compute CIDEr-D, see `cider_d`, of a corpus that is read.

    Parameters
    ----------
    corpus : Corpus
        As from `split_words`.
    sigma : float
        The difference in length that costs 40%, in words; above 0.

    Returns
    -------
    MetricScore
        From 0 to 10.
    """
    pairs = np.maximum(corpus.lengths - 1, 0)
    difference = (pairs[corpus.image] - pairs)[corpus.count :]
    penalty = np.exp(-(difference**2) / (2 * sigma**2))
    return _mean(corpus, _cosines(corpus, clipped=True) * penalty)


def _mean(corpus: Corpus, values: Floats) -> MetricScore:
    """Average over each caption's references, then over the captions."""
    references = np.bincount(corpus.image[corpus.count :])
    scores = _SCALE * np.add.reduceat(values, corpus.firsts) / references
    return MetricScore(float(scores.mean()), scores)


def _cosines(corpus: Corpus, *, clipped: bool) -> Floats:
    """Compute the cosine of each reference with its caption, shape (R,), averaged over the lengths of n-grams."""
    sums = np.zeros(len(corpus.lengths) - corpus.count)
    # of these, only the n-grams that are shared end by themselves
    levels = zip(
        shared_ngrams(corpus, _MAX_N), itertools.count(1), _rarities(corpus), _repetitions(corpus), strict=False
    )
    for shared, n, rarity, counts in levels:
        inside = corpus.fits(n)
        # a count of two stands at two places: each adds one of the two times the weight
        squares = np.bincount(
            corpus.sentence[inside], weights=(counts * rarity**2)[inside], minlength=len(corpus.lengths)
        )
        own = shared.counts[shared.gram]
        own = np.minimum(own, shared.found) if clipped else own
        products = np.bincount(
            shared.sentence,
            weights=own * shared.found * rarity[shared.place[shared.gram]] ** 2,
            minlength=len(corpus.lengths),
        )[corpus.count :]
        norms = np.sqrt(squares[corpus.count :] * squares[corpus.image[corpus.count :]])
        sums += np.divide(products, norms, out=np.zeros_like(sums), where=norms > 0)
    return sums / _MAX_N


def _rarities(corpus: Corpus) -> Iterator[Floats]:
    """Weigh the n-gram at each place, n = 1, 2, ...: log(pictures / pictures with it), shape (W,).

    An n-gram that no reference has weighs as much as one that the references of one picture have.
    """
    places, number, total = np.arange(len(corpus.words)), corpus.words, len(corpus.vocabulary)
    while True:
        theirs = int(np.searchsorted(places, corpus.own))
        pairs = np.sort(number[theirs:] * corpus.count + corpus.image[corpus.sentence[places[theirs:]]])
        once = pairs[np.diff(pairs, prepend=-1) != 0]
        pictures = np.bincount(once // corpus.count, minlength=total)[number]
        rarity = np.full(len(corpus.words), np.log(corpus.count))
        rarity[places] -= np.log(np.maximum(pictures, 1))
        yield rarity
        places, keys = pair_up(corpus, _keep(corpus, places, number, pictures > 1))
        grams, number = np.unique(keys, return_inverse=True)
        total = len(grams)


def _repetitions(corpus: Corpus) -> Iterator[Ints]:
    """Count how often a sentence has the n-gram that it has at each place, n = 1, 2, ..., shape (W,)."""
    places, keys = np.arange(len(corpus.words)), corpus.sentence * len(corpus.vocabulary) + corpus.words
    while True:
        _, number, sizes = np.unique(keys, return_inverse=True, return_counts=True)
        counts = np.ones(len(corpus.words), np.int64)
        counts[places] = sizes[number]
        yield counts
        places, keys = pair_up(corpus, _keep(corpus, places, number, counts[places] > 1))


def _keep(corpus: Corpus, places: Ints, number: Ints, wanted: npt.NDArray[np.bool_]) -> Ints:
    ranks = np.full(len(corpus.words), -1)
    ranks[places[wanted]] = number[wanted]
    return ranks
