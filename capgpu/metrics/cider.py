"""CIDEr: cosine similarity of n-gram counts weighted by inverse document frequency (idf).

CIDEr is that of COCO's evaluation, which the paper calls CIDEr-D.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidValueError
from capgpu.metrics.corpus import Corpus, Ints, MetricScore, Words, encode_corpus, ngram_keys, split_words
from capgpu.metrics.ngrams import SharedNgrams, shared_ngrams

__all__ = ["SCALE", "SIGMA", "Cosines", "WeightedNgrams", "cider", "cider_unpenalized", "weighted_ngrams"]

Floats = npt.NDArray[np.float64]

_MAX_N = 4
_WORDS_AT_ONCE = 1 << 20  # limits the memory of what is computed word by word
#: Standard deviation of the length penalty.
SIGMA = 6.0
#: Factor of all scores.
SCALE = 10.0  # as in the authors' code, and in the paper for CIDEr-D


def cider(captions: Sequence[Words], references: Sequence[Sequence[Words]], *, sigma: float = SIGMA) -> MetricScore:
    """Compute CIDEr as COCO's evaluation does: the CIDEr-D of the paper.

    It is the cosine between the weighted n-gram counts of a caption and of its references. The weight of an n-gram is
    its count times its idf, log(pictures / pictures with the n-gram in a reference). Counts are clipped to those of the
    reference, and the cosine is multiplied by exp(-difference² / (2 sigma²)), where difference is that of the lengths.
    The score is the mean over references and over n = 1 to 4, times 10.

    Parameters
    ----------
    captions, references
        As for `corpus_bleu`.
    sigma : float
        Standard deviation of the Gaussian length penalty, in words.

    Returns
    -------
    MetricScore
        From 0 to 10. All are 0 for a single picture, since every idf is 0.

    Raises
    ------
    TypeError
        As for `corpus_bleu`.
    ValueError
        As for `corpus_bleu`, and for `sigma` that is not above 0.

    Notes
    -----
    R. Vedantam, C. L. Zitnick and D. Parikh, "CIDEr: Consensus-based Image Description Evaluation", 2015,
    equation 4. As in COCO's evaluation, counts are not divided by the caption's length, and
    lengths are counted in pairs of words.
    """
    if not sigma > 0:
        raise InvalidValueError(f"sigma: expected a length in words above 0, got {sigma}.")
    return _cosines(split_words(encode_corpus(captions, references)), clipped=True).cider(sigma)


def cider_unpenalized(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> MetricScore:
    """Compute the CIDEr of the paper, without the penalties of `cider` for repetition and differences in length.

    It is not comparable with the CIDEr of COCO's evaluation.

    Parameters
    ----------
    captions, references
        As for `corpus_bleu`.

    Returns
    -------
    MetricScore
        From 0 to 10. All are 0 for a single picture, since every idf is 0.

    Raises
    ------
    TypeError, ValueError
        As for `corpus_bleu`.

    Notes
    -----
    R. Vedantam, C. L. Zitnick and D. Parikh, "CIDEr: Consensus-based Image Description Evaluation", 2015,
    equations 1 to 3, times 10 as in the authors' code, and without the stemming of words, which that code leaves out.
    """
    return _cosines(split_words(encode_corpus(captions, references)), clipped=False).unpenalized()


@dataclass(frozen=True)
class WeightedNgrams:
    """The n-grams of one length shared by captions and their references, with the weights of CIDEr.

    Attributes
    ----------
    shared : SharedNgrams
        G n-grams.
    idf : numpy.ndarray of float64, shape (G,)
        Weight of each: log(pictures / pictures with the n-gram in a reference).
    squares : numpy.ndarray of float64, shape (S,)
        The squared length of each sentence's vector of weighted counts.
    """

    shared: SharedNgrams
    idf: Floats
    squares: Floats


def weighted_ngrams(corpus: Corpus) -> Iterator[WeightedNgrams]:
    """Find and weight the n-grams that captions share with their references.

    Parameters
    ----------
    corpus : Corpus
        As from `split_words`.

    Yields
    ------
    WeightedNgrams
        For n = 1, 2, 3, 4.
    """
    idfs, repetitions = _idf_by_length(corpus), _repetitions(corpus)
    for n, shared in enumerate(shared_ngrams(corpus, _MAX_N), start=1):
        idf = next(idfs)
        yield WeightedNgrams(shared, idf[shared.position], _squares(corpus, n, idf, *next(repetitions)))
        del idf  # freed before the next is computed


class Cosines:
    """Accumulated cosines of CIDEr.

    Parameters
    ----------
    corpus : Corpus
        As from `split_words`. Each level of `weighted_ngrams` has to be added once.
    clipped : bool
        Whether counts are clipped to those of the reference.
    """

    def __init__(self, corpus: Corpus, *, clipped: bool = True) -> None:
        self._corpus, self._clipped = corpus, clipped
        self._sums = np.zeros(len(corpus.lengths) - corpus.count)

    def add(self, ngrams: WeightedNgrams) -> None:
        """Add the cosine of each reference with its caption in the n-grams of one length."""
        corpus, shared = self._corpus, ngrams.shared
        first = corpus.count
        norms = np.sqrt(ngrams.squares[first:] * ngrams.squares[corpus.image[first:]])
        weights = shared.found * ngrams.idf[shared.gram] ** 2
        counts = shared.counts[shared.gram]
        if self._clipped:
            counts = np.minimum(counts, shared.found)
        products = np.bincount(shared.sentence, weights=counts * weights, minlength=len(corpus.lengths))[first:]
        self._sums += np.divide(products, norms, out=np.zeros_like(self._sums), where=norms > 0)

    def unpenalized(self) -> MetricScore:
        """Return the score without a length penalty, see `cider_unpenalized`."""
        return _mean(self._corpus, self._sums / _MAX_N)

    def cider(self, sigma: float = SIGMA) -> MetricScore:
        """Return CIDEr, see the function `cider`."""
        corpus = self._corpus
        pairs = np.maximum(corpus.lengths - 1, 0)
        difference = (pairs[corpus.image] - pairs)[corpus.count :]
        return _mean(corpus, self._sums / _MAX_N * np.exp(-(difference**2) / (2 * sigma**2)))


def _cosines(corpus: Corpus, *, clipped: bool) -> Cosines:
    cosines = Cosines(corpus, clipped=clipped)
    for ngrams in weighted_ngrams(corpus):
        cosines.add(ngrams)
    return cosines


def _mean(corpus: Corpus, values: Floats) -> MetricScore:
    """Average over each caption's references, then over the captions."""
    references = np.bincount(corpus.image[corpus.count :])
    scores = SCALE * np.add.reduceat(values, corpus.first_references) / references
    return MetricScore(float(scores.mean()), scores)


def _squares(corpus: Corpus, n: int, idf: Floats, repeated: Ints, times: Ints) -> Floats:
    """Compute the squared length of each sentence's vector of n-grams, shape (S,)."""
    squares = np.zeros(len(corpus.lengths))
    inside, sentence = corpus.fits(n), corpus.sentence
    for start in range(0, len(sentence), _WORDS_AT_ONCE):
        part = slice(start, start + _WORDS_AT_ONCE)
        weights = idf[part] ** 2
        in_part = slice(*np.searchsorted(repeated, (start, start + _WORDS_AT_ONCE)))
        # count² idf² of an n-gram is spread over its `count` positions: each adds count idf²
        weights[repeated[in_part] - start] *= times[in_part]
        squares += np.bincount(sentence[part], weights=weights * inside[part], minlength=len(squares))
    return squares


def _idf_by_length(corpus: Corpus) -> Iterator[Floats]:
    """Compute the idf of the n-gram at each position, n = 1, 2, ...: log(pictures / pictures with it), shape (W,).

    An n-gram without a reference has the idf of an n-gram in the references of one picture.
    """
    positions, number, total = np.arange(len(corpus.words)), corpus.words, len(corpus.vocabulary)
    while True:
        pictures = _pictures(corpus, positions, number, total)
        yield _idf_by_position(corpus, positions, np.log(np.maximum(pictures, 1))[number])
        repeated = (pictures > 1)[number]
        positions, keys = ngram_keys(corpus, _ranks_by_position(corpus, positions[repeated], number[repeated]))
        grams, number = np.unique(keys, return_inverse=True)
        total = len(grams)
        del keys, grams, repeated


def _pictures(corpus: Corpus, positions: Ints, number: Ints, total: int) -> Ints:
    """Count the pictures with each n-gram in a reference, shape (total,)."""
    first = int(np.searchsorted(positions, corpus.n_caption_words))  # of the references
    pairs = number[first:] * corpus.count + corpus.image[corpus.sentence[positions[first:]]]
    pairs.sort()
    pairs = pairs[np.diff(pairs, prepend=-1) != 0]
    pairs //= corpus.count
    return np.bincount(pairs, minlength=total)


def _idf_by_position(corpus: Corpus, positions: Ints, logs: Floats) -> Floats:
    idf = np.full(len(corpus.words), np.log(corpus.count))
    idf[positions] -= logs
    return idf


def _repetitions(corpus: Corpus) -> Iterator[tuple[Ints, Ints]]:
    """Find the n-grams repeated within a sentence, n = 1, 2, ...: increasing positions, and counts."""
    repetitions = [_repeated(*block) for block in _word_blocks(corpus)]
    positions, keys, times = (np.concatenate(part) for part in zip(*repetitions, strict=True))
    while True:
        yield positions, times
        _, number = np.unique(keys, return_inverse=True)
        positions, keys, times = _repeated(*ngram_keys(corpus, _ranks_by_position(corpus, positions, number)))


def _word_blocks(corpus: Corpus) -> Iterator[tuple[Ints, Ints]]:
    """Yield positions and keys of words, keys equal only within a sentence, in blocks of whole sentences."""
    ends = np.cumsum(corpus.lengths)
    start = 0
    while start == 0 or start < len(corpus.words):
        last = int(np.searchsorted(ends, start + _WORDS_AT_ONCE, side="right"))
        stop = int(ends[min(last, len(ends) - 1)])
        part = slice(start, stop)
        yield np.arange(start, stop), corpus.sentence[part] * len(corpus.vocabulary) + corpus.words[part]
        start = max(stop, 1)


def _repeated(positions: Ints, keys: Ints) -> tuple[Ints, Ints, Ints]:
    """Return the positions whose keys occur several times, the keys, and how often each occurs."""
    _, number, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    counts = sizes[number]
    is_repeated = counts > 1
    return positions[is_repeated], keys[is_repeated], counts[is_repeated]


def _ranks_by_position(corpus: Corpus, positions: Ints, number: Ints) -> Ints:
    ranks = np.full(len(corpus.words), -1)
    ranks[positions] = number
    return ranks
