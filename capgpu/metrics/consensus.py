"""CIDEr and CIDEr-D: n-grams that tell pictures apart count more."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from capgpu.metrics.corpus import Corpus, Ints, MetricScore, Words, pair_up, read_corpus, split_words
from capgpu.metrics.shared import Shared, shared_ngrams

__all__ = ["Cosines", "WeightedNgrams", "cider", "cider_d", "weighted_ngrams"]

Floats = npt.NDArray[np.float64]

_MAX_N = 4
_WORDS_AT_ONCE = 1 << 20  # limits the memory of what is computed word by word
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
    return _cosines(split_words(read_corpus(captions, references))).cider()


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
    return _cosines(split_words(read_corpus(captions, references))).cider_d(sigma)


@dataclass(frozen=True)
class WeightedNgrams:
    """The n-grams of one length that captions share with their references, and the weights of CIDEr.

    Attributes
    ----------
    shared : Shared
        G n-grams.
    rarity : numpy.ndarray of float64, shape (G,)
        The weight of each: log(pictures / pictures that have it in a reference).
    squares : numpy.ndarray of float64, shape (S,)
        The squared length of each sentence's vector of weighted counts.
    """

    shared: Shared
    rarity: Floats
    squares: Floats


def weighted_ngrams(corpus: Corpus) -> Iterator[WeightedNgrams]:
    """Find and weigh the n-grams that captions share with their own references.

    Parameters
    ----------
    corpus : Corpus
        As from `split_words`.

    Yields
    ------
    WeightedNgrams
        For n = 1, 2, 3, 4.
    """
    rarities, repetitions = _rarities(corpus), _repetitions(corpus)
    for n, shared in enumerate(shared_ngrams(corpus, _MAX_N), start=1):
        rarity = next(rarities)
        own = rarity[shared.place]
        yield WeightedNgrams(shared, own, _squares(corpus, n, rarity, *next(repetitions)))
        del rarity  # not held while the next is computed


class Cosines:
    """The sums of which CIDEr and CIDEr-D are made: both need the same n-grams.

    Parameters
    ----------
    corpus : Corpus
        As from `split_words`. Each level of `weighted_ngrams` has to be added once.
    """

    def __init__(self, corpus: Corpus) -> None:
        self._corpus = corpus
        self._plain = np.zeros(len(corpus.lengths) - corpus.count)
        self._clipped = np.zeros_like(self._plain)

    def add(self, ngrams: WeightedNgrams) -> None:
        """Add the cosine of each reference with its caption in the n-grams of one length."""
        corpus, shared = self._corpus, ngrams.shared
        first = corpus.count
        norms = np.sqrt(ngrams.squares[first:] * ngrams.squares[corpus.image[first:]])
        weights = shared.found * ngrams.rarity[shared.gram] ** 2
        own = shared.counts[shared.gram]
        for sums, counts in ((self._plain, own), (self._clipped, np.minimum(own, shared.found))):
            products = np.bincount(shared.sentence, weights=counts * weights, minlength=len(corpus.lengths))[first:]
            sums += np.divide(products, norms, out=np.zeros_like(sums), where=norms > 0)

    def cider(self) -> MetricScore:
        """Return CIDEr, see the function `cider`."""
        return _mean(self._corpus, self._plain / _MAX_N)

    def cider_d(self, sigma: float = 6.0) -> MetricScore:
        """Return CIDEr-D, see the function `cider_d`."""
        corpus = self._corpus
        pairs = np.maximum(corpus.lengths - 1, 0)
        difference = (pairs[corpus.image] - pairs)[corpus.count :]
        return _mean(corpus, self._clipped / _MAX_N * np.exp(-(difference**2) / (2 * sigma**2)))


def _cosines(corpus: Corpus) -> Cosines:
    cosines = Cosines(corpus)
    for ngrams in weighted_ngrams(corpus):
        cosines.add(ngrams)
    return cosines


def _mean(corpus: Corpus, values: Floats) -> MetricScore:
    """Average over each caption's references, then over the captions."""
    references = np.bincount(corpus.image[corpus.count :])
    scores = _SCALE * np.add.reduceat(values, corpus.firsts) / references
    return MetricScore(float(scores.mean()), scores)


def _squares(corpus: Corpus, n: int, rarity: Floats, repeated: Ints, times: Ints) -> Floats:
    """Compute the squared length of each sentence's vector of n-grams, shape (S,)."""
    squares = np.zeros(len(corpus.lengths))
    inside, sentence = corpus.fits(n), corpus.sentence
    for start in range(0, len(sentence), _WORDS_AT_ONCE):
        part = slice(start, start + _WORDS_AT_ONCE)
        weights = rarity[part] ** 2
        some = slice(*np.searchsorted(repeated, (start, start + _WORDS_AT_ONCE)))
        # a count of two stands at two places: each adds one of the two times the weight
        weights[repeated[some] - start] *= times[some]
        squares += np.bincount(sentence[part], weights=weights * inside[part], minlength=len(squares))
    return squares


def _rarities(corpus: Corpus) -> Iterator[Floats]:
    """Weigh the n-gram at each place, n = 1, 2, ...: log(pictures / pictures with it), shape (W,).

    An n-gram that no reference has weighs as much as one that the references of one picture have.
    """
    places, number, total = np.arange(len(corpus.words)), corpus.words, len(corpus.vocabulary)
    while True:
        pictures = _pictures(corpus, places, number, total)
        yield _spread(corpus, places, np.log(np.maximum(pictures, 1))[number])
        wanted = (pictures > 1)[number]
        places, keys = pair_up(corpus, _keep(corpus, places[wanted], number[wanted]))
        grams, number = np.unique(keys, return_inverse=True)
        total = len(grams)
        del keys, grams, wanted


def _pictures(corpus: Corpus, places: Ints, number: Ints, total: int) -> Ints:
    """Count the pictures that have each n-gram in a reference, shape (total,)."""
    theirs = int(np.searchsorted(places, corpus.own))
    pairs = number[theirs:] * corpus.count + corpus.image[corpus.sentence[places[theirs:]]]
    pairs.sort()
    pairs = pairs[np.diff(pairs, prepend=-1) != 0]
    pairs //= corpus.count
    return np.bincount(pairs, minlength=total)


def _spread(corpus: Corpus, places: Ints, logs: Floats) -> Floats:
    rarity = np.full(len(corpus.words), np.log(corpus.count))
    rarity[places] -= logs
    return rarity


def _repetitions(corpus: Corpus) -> Iterator[tuple[Ints, Ints]]:
    """Find where an n-gram stands that its sentence has several times, n = 1, 2, ...: places, rising, and times."""
    found = [_repeated(*block) for block in _word_blocks(corpus)]
    places, keys, times = (np.concatenate(part) for part in zip(*found, strict=True))
    while True:
        yield places, times
        _, number = np.unique(keys, return_inverse=True)
        places, keys, times = _repeated(*pair_up(corpus, _keep(corpus, places, number)))


def _word_blocks(corpus: Corpus) -> Iterator[tuple[Ints, Ints]]:
    """Go through places and numbers of words, equal only within a sentence, in blocks of whole sentences."""
    ends = np.cumsum(corpus.lengths)
    start = 0
    while start == 0 or start < len(corpus.words):
        last = int(np.searchsorted(ends, start + _WORDS_AT_ONCE, side="right"))
        stop = int(ends[min(last, len(ends) - 1)])
        part = slice(start, stop)
        yield np.arange(start, stop), corpus.sentence[part] * len(corpus.vocabulary) + corpus.words[part]
        start = max(stop, 1)


def _repeated(places: Ints, keys: Ints) -> tuple[Ints, Ints, Ints]:
    """Keep the places whose keys occur several times: places, keys and the times."""
    _, number, sizes = np.unique(keys, return_inverse=True, return_counts=True)
    times = sizes[number]
    several = times > 1
    return places[several], keys[several], times[several]


def _keep(corpus: Corpus, places: Ints, number: Ints) -> Ints:
    ranks = np.full(len(corpus.words), -1)
    ranks[places] = number
    return ranks
