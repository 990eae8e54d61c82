"""A corpus of captions and references as integer arrays, and the keys of its n-grams.

All sentences are concatenated in one array, the captions to evaluate first, then the references of each. An n-gram is
identified by the position of its first word. Two sentences can share an n-gram only if they share both of its
(n-1)-grams, so that most positions are discarded early; the others are numbered by sorting pairs of the (n-1)-grams'
numbers.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple, TypeAlias

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidTypeError, InvalidValueError

__all__ = [
    "Corpus",
    "Ints",
    "MetricScore",
    "Words",
    "check_corpus",
    "encode_corpus",
    "look_up",
    "ngram_keys",
    "split_words",
]

Words: TypeAlias = Sequence[str]
Ints: TypeAlias = npt.NDArray[np.int64]


class MetricScore(NamedTuple):
    """A metric of a corpus and of each caption in it.

    Attributes
    ----------
    corpus : float
        Score of all captions together.
    captions : numpy.ndarray of float64, shape (N,)
        Score of each caption.
    """

    corpus: float
    captions: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Corpus:
    """N captions and R references: S = N + R sentences with W words in total.

    Attributes
    ----------
    count : int
        N.
    words : numpy.ndarray of int64, shape (W,)
        The number of each word.
    vocabulary : list of str
        The word of each number.
    lengths : numpy.ndarray of int64, shape (S,)
        Words in each sentence; sentences 0 to N - 1 are the captions.
    image : numpy.ndarray of int64, shape (S,)
        Index of the caption that each sentence is, or is a reference of.
    """

    count: int
    words: Ints
    vocabulary: list[str]
    lengths: Ints
    image: Ints

    @functools.cached_property
    def sentence(self) -> Ints:
        """The sentence of each word, shape (W,)."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @functools.cached_property
    def image_words(self) -> Ints:
        """Key of each word, shape (W,): equal for equal words of one caption or its references only."""
        return self.image[self.sentence] * len(self.vocabulary) + self.words

    @property
    def n_caption_words(self) -> int:
        """Number of words of the captions; the words of the references follow."""
        return int(self.lengths[: self.count].sum())

    @property
    def first_references(self) -> Ints:
        """Index of the first reference of each caption among the R references, shape (N,)."""
        return np.searchsorted(self.image[self.count :], np.arange(self.count))

    def fits(self, n: int) -> npt.NDArray[np.bool_]:
        """Return a mask of the positions where an n-gram begins that ends within its sentence, shape (W,)."""
        inside = np.zeros(len(self.words), np.bool_)
        count = max(len(inside) - n + 1, 0)
        np.equal(self.sentence[:count], self.sentence[n - 1 :], out=inside[:count])
        return inside


def encode_corpus(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Corpus:
    """Encode captions and references as word numbers.

    Parameters
    ----------
    captions, references
        As for `capgpu.metrics.corpus_bleu`.

    Returns
    -------
    Corpus
        The encoded corpus.

    Raises
    ------
    TypeError, ValueError
        As `check_corpus`.
    """
    check_corpus(captions, references)
    sentences = [*captions, *chain.from_iterable(references)]
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a new word gets the next number
    all_words = chain.from_iterable(sentences)
    words = np.fromiter(map(numbers.__getitem__, all_words), np.int64, int(lengths.sum()))
    first = np.arange(len(captions))
    image = np.concatenate([first, np.repeat(first, [len(truths) for truths in references])])
    return Corpus(len(captions), words, list(numbers), lengths, image)


def split_words(corpus: Corpus) -> Corpus:
    r"""Split words that contain white space.

    Parameters
    ----------
    corpus : Corpus
        Words may contain white space: COCO's tokenizer makes one word of ``"1\u00a01/2"``, its n-grams count two.

    Returns
    -------
    Corpus
        A corpus without white space and empty words; the same object if nothing is split.
    """
    if " ".join(corpus.vocabulary).split() == corpus.vocabulary:
        return corpus
    numbers = {word: number for number, word in enumerate(corpus.vocabulary)}
    parts = {number: word.split() for word, number in numbers.items() if word.split() != [word]}
    sizes = np.ones(len(numbers), np.int64)
    sizes[list(parts)] = [len(pieces) for pieces in parts.values()]
    sizes = sizes[corpus.words]
    ends = np.cumsum(sizes)
    words = np.repeat(corpus.words, sizes)
    for number, pieces in parts.items():
        starts = (ends - sizes)[corpus.words == number]
        for offset, part in enumerate(pieces):
            words[starts + offset] = numbers.setdefault(part, len(numbers))
    lengths = np.diff(np.concatenate([[0], ends])[np.cumsum(corpus.lengths)], prepend=0)
    return Corpus(corpus.count, words, list(numbers), lengths, corpus.image)


def ngram_keys(corpus: Corpus, ranks: Ints) -> tuple[Ints, Ints]:
    """Return positions and keys of the n-grams both of whose (n-1)-grams are numbered.

    Parameters
    ----------
    corpus : Corpus
        The sentences.
    ranks : numpy.ndarray of int64, shape (W,)
        Number of the (n-1)-gram that begins at each position, -1 if it is discarded.

    Returns
    -------
    positions : numpy.ndarray of int64, shape (P,)
        Increasing positions of the n-grams.
    keys : numpy.ndarray of int64, shape (P,)
        Equal for equal n-grams.
    """
    together = (ranks[:-1] >= 0) & (ranks[1:] >= 0) & (corpus.sentence[:-1] == corpus.sentence[1:])
    positions = np.flatnonzero(together)
    return positions, ranks[positions] * (ranks.max(initial=0) + 1) + ranks[positions + 1]


def look_up(table: Ints, keys: Ints) -> Ints:
    """Look up keys in a sorted table.

    Parameters
    ----------
    table : numpy.ndarray of int64, shape (T,)
        Increasing.
    keys : numpy.ndarray of int64, shape (K,)
        Keys to find.

    Returns
    -------
    numpy.ndarray of int64, shape (K,)
        Index of each key in `table`, -1 if it is missing.
    """
    if len(table) == 0:
        return np.full(len(keys), -1)
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[at] == keys, at, -1)


def check_corpus(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    """Validate captions and references.

    Parameters
    ----------
    captions, references
        As for `capgpu.metrics.corpus_bleu`.

    Raises
    ------
    TypeError
        For a caption that is a string: it would be evaluated letter by letter.
    ValueError
        For no captions, unequal lengths, or a picture without references.
    """
    if len(captions) == 0:
        raise InvalidValueError("captions: expected at least one caption, got none.")
    if len(captions) != len(references):
        raise InvalidValueError(
            f"references: expected one list of references for each of {len(captions)} captions, got {len(references)}."
        )
    if 0 in map(len, references):
        empty = next(i for i, truths in enumerate(references) if len(truths) == 0)
        raise InvalidValueError(f"references[{empty}]: expected at least one caption, got none.")
    types = set(map(type, captions)).union(*(map(type, truths) for truths in references))
    if any(issubclass(caption_type, str) for caption_type in types):
        _refuse_string("captions", captions)
        for i, truths in enumerate(references):
            _refuse_string(f"references[{i}]", truths)


def _refuse_string(name: str, captions: Sequence[Words]) -> None:
    for i, words in enumerate(captions):
        if isinstance(words, str):
            raise InvalidTypeError(
                f"{name}[{i}]: expected a list of words, got the string {words!r}. Split it with "
                "capgpu.tokens.tokenize."
            )
