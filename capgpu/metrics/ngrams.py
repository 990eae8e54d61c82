"""The n-grams that captions share with their references."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from capgpu.metrics.corpus import Corpus, Ints, look_up, ngram_keys

__all__ = ["SharedNgrams", "shared_ngrams"]


@dataclass(frozen=True)
class SharedNgrams:
    """The n-grams of one length in the captions, and their occurrences in the references.

    The same n-gram in two captions counts as two n-grams.

    Attributes
    ----------
    caption : numpy.ndarray of int64, shape (G,)
        Caption of each distinct n-gram.
    position : numpy.ndarray of int64, shape (G,)
        A position in `Corpus.words` where the n-gram begins.
    counts : numpy.ndarray of int64, shape (G,)
        How often the caption contains it.
    gram, sentence, found : numpy.ndarray of int64, shape (M,)
        One entry for each pair of an n-gram and a reference of its caption that contains it: index of the n-gram
        (below G), index of the reference among the corpus's sentences, and how often the reference contains it.
    """

    caption: Ints
    position: Ints
    counts: Ints
    gram: Ints
    sentence: Ints
    found: Ints


def shared_ngrams(corpus: Corpus, max_n: int) -> Iterator[SharedNgrams]:
    """Find the n-grams that captions share with their references, for n = 1 to `max_n`.

    Parameters
    ----------
    corpus : Corpus
        The sentences.
    max_n : int
        Length of the longest n-grams.

    Yields
    ------
    SharedNgrams
        For 1, 2, ..., `max_n`.
    """
    ranks = positions = np.arange(len(corpus.words))
    keys = corpus.image_words
    for n in range(1, max_n + 1):
        if n > 1:
            positions, keys = ngram_keys(corpus, ranks)
        split = int(np.searchsorted(positions, corpus.n_caption_words))  # captions before, references after
        grams, caption_grams, counts = np.unique(keys[:split], return_inverse=True, return_counts=True)
        position = np.empty(len(grams), np.int64)
        position[caption_grams] = positions[:split]
        reference_grams = look_up(grams, keys[split:])
        in_captions = reference_grams >= 0
        reference_grams, known_positions = reference_grams[in_captions], positions[split:][in_captions]
        keys = reference_grams * len(corpus.lengths) + corpus.sentence[known_positions]
        pairs, counts_in_sentence = np.unique(keys, return_counts=True)
        gram_index, sentence = np.divmod(pairs, len(corpus.lengths))
        ranks = np.full(len(corpus.words), -1)
        ranks[positions[:split]] = caption_grams
        ranks[known_positions] = reference_grams
        # freed while the caller computes
        del keys, positions, known_positions, in_captions, reference_grams, caption_grams, pairs
        yield SharedNgrams(corpus.sentence[position], position, counts, gram_index, sentence, counts_in_sentence)
