"""The n-grams that captions share with their references."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from capgpu.metrics.corpus import Corpus, Ints, look_up, pair_up

__all__ = ["Shared", "shared_ngrams"]


@dataclass(frozen=True)
class Shared:
    """The n-grams of one length in the captions, and where the references have them, too.

    An n-gram of one caption and the same of another are two here.

    Attributes
    ----------
    caption : numpy.ndarray of int64, shape (G,)
        The caption of each different n-gram.
    place : numpy.ndarray of int64, shape (G,)
        A place in `Corpus.words` where it begins.
    counts : numpy.ndarray of int64, shape (G,)
        How often its caption has it.
    gram, sentence, found : numpy.ndarray of int64, shape (M,)
        One entry for each n-gram and each reference of its caption that has it: the n-gram, below G, the reference
        as a sentence of the corpus, and how often it has the n-gram.
    """

    caption: Ints
    place: Ints
    counts: Ints
    gram: Ints
    sentence: Ints
    found: Ints


def shared_ngrams(corpus: Corpus, max_n: int) -> Iterator[Shared]:
    """Find the n-grams that captions share with their own references, for n = 1 to `max_n`.

    Parameters
    ----------
    corpus : Corpus
        The sentences.
    max_n : int
        The longest n-grams.

    Yields
    ------
    Shared
        For 1, 2, ..., `max_n`.
    """
    ranks = places = np.arange(len(corpus.words))
    keys = corpus.image_words
    for n in range(1, max_n + 1):
        if n > 1:
            places, keys = pair_up(corpus, ranks)
        ours = int(np.searchsorted(places, corpus.own))
        grams, own, counts = np.unique(keys[:ours], return_inverse=True, return_counts=True)
        place = np.empty(len(grams), np.int64)
        place[own] = places[:ours]
        theirs = look_up(grams, keys[ours:])
        known = theirs >= 0
        theirs, places_known = theirs[known], places[ours:][known]
        pairs, found = np.unique(theirs * len(corpus.lengths) + corpus.sentence[places_known], return_counts=True)
        gram, sentence = np.divmod(pairs, len(corpus.lengths))
        ranks = np.full(len(corpus.words), -1)
        ranks[places[:ours]] = own
        ranks[places_known] = theirs
        del keys, places, places_known, known, theirs, own, pairs  # not held while others compute
        yield Shared(corpus.sentence[place], place, counts, gram, sentence, found)
