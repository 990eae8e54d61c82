"""A corpus of captions and references as arrays of whole numbers, and the n-grams in it.

All sentences lie one after the other in one array, the captions to judge first and then the references of each. An
n-gram is known by the place of its first word. It can be shared by two sentences only where the two shorter n-grams
that it is made of are shared, so that most places drop out early: what is left is numbered by sorting pairs of the
numbers that the shorter ones were given.
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

__all__ = [
    "Corpus",
    "Ints",
    "MetricScore",
    "Words",
    "check_captions",
    "look_up",
    "pair_up",
    "read_corpus",
    "split_words",
]

Words: TypeAlias = Sequence[str]
Ints: TypeAlias = npt.NDArray[np.int64]


class MetricScore(NamedTuple):
    """A metric of a corpus and of each caption in it.

    Attributes
    ----------
    corpus : float
        The metric of all captions together.
    captions : numpy.ndarray of float64, shape (N,)
        That of each.
    """

    corpus: float
    captions: npt.NDArray[np.float64]


@dataclass(frozen=True)
class Corpus:
    """N captions and R references; the S = N + R sentences have W words together.

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
        The caption that each sentence is, or is a reference of.
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
        """A number of each word, shape (W,), that equal words have in common only where they are of one caption."""
        return self.image[self.sentence] * len(self.vocabulary) + self.words

    @property
    def own(self) -> int:
        """Words of the captions: those of the references follow."""
        return int(self.lengths[: self.count].sum())

    @property
    def firsts(self) -> Ints:
        """The first reference of each caption, shape (N,), counted from 0: they lie one after the other."""
        return np.searchsorted(self.image[self.count :], np.arange(self.count))

    def fits(self, n: int) -> npt.NDArray[np.bool_]:
        """Tell at which of the W places an n-gram begins that ends within its sentence."""
        inside = np.zeros(len(self.words), np.bool_)
        count = max(len(inside) - n + 1, 0)
        np.equal(self.sentence[:count], self.sentence[n - 1 :], out=inside[:count])
        return inside


def read_corpus(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> Corpus:
    """Give every word of captions and references its number.

    Parameters
    ----------
    captions, references
        As for `capgpu.metrics.corpus_bleu`.

    Returns
    -------
    Corpus
        All of them.

    Raises
    ------
    TypeError, ValueError
        As `check_captions`.
    """
    check_captions(captions, references)
    sentences = [*captions, *chain.from_iterable(references)]
    lengths = np.fromiter(map(len, sentences), np.int64, len(sentences))
    numbers: defaultdict[str, int] = defaultdict()
    numbers.default_factory = numbers.__len__  # a word that is new takes the next number
    all_words = chain.from_iterable(sentences)
    words = np.fromiter(map(numbers.__getitem__, all_words), np.int64, int(lengths.sum()))
    first = np.arange(len(captions))
    image = np.concatenate([first, np.repeat(first, [len(truths) for truths in references])])
    return Corpus(len(captions), words, list(numbers), lengths, image)


def split_words(corpus: Corpus) -> Corpus:
    r"""Put the parts of words that hold white space in their place.

    Parameters
    ----------
    corpus : Corpus
        Its words may hold white space, as ``"1\u00a01/2"`` does, one word to COCO's tokens and two to its n-grams.

    Returns
    -------
    Corpus
        Without white space and empty words; the same object where there are none.
    """
    if " ".join(corpus.vocabulary).split() == corpus.vocabulary:
        return corpus
    numbers = {word: number for number, word in enumerate(corpus.vocabulary)}
    parts = {number: word.split() for word, number in numbers.items() if word.split() != [word]}
    sizes = np.ones(len(numbers), np.int64)
    sizes[list(parts)] = [len(own) for own in parts.values()]
    sizes = sizes[corpus.words]
    ends = np.cumsum(sizes)
    words = np.repeat(corpus.words, sizes)
    for number, own in parts.items():
        starts = (ends - sizes)[corpus.words == number]
        for offset, part in enumerate(own):
            words[starts + offset] = numbers.setdefault(part, len(numbers))
    lengths = np.diff(np.concatenate([[0], ends])[np.cumsum(corpus.lengths)], prepend=0)
    return Corpus(corpus.count, words, list(numbers), lengths, corpus.image)


def pair_up(corpus: Corpus, ranks: Ints) -> tuple[Ints, Ints]:
    """Make candidates for n-grams of the (n-1)-grams that have a number.

    Parameters
    ----------
    corpus : Corpus
        The sentences.
    ranks : numpy.ndarray of int64, shape (W,)
        The number of the (n-1)-gram that begins at each place, -1 for one that needs none.

    Returns
    -------
    places : numpy.ndarray of int64, shape (P,)
        Where n-grams begin both of whose (n-1)-grams have a number, increasing.
    keys : numpy.ndarray of int64, shape (P,)
        Equal for equal pairs of numbers.
    """
    together = (ranks[:-1] >= 0) & (ranks[1:] >= 0) & (corpus.sentence[:-1] == corpus.sentence[1:])
    places = np.flatnonzero(together)
    return places, ranks[places] * (ranks.max(initial=0) + 1) + ranks[places + 1]


def look_up(table: Ints, keys: Ints) -> Ints:
    """Find keys in a table.

    Parameters
    ----------
    table : numpy.ndarray of int64, shape (T,)
        Sorted, each number once.
    keys : numpy.ndarray of int64, shape (K,)
        What to find.

    Returns
    -------
    numpy.ndarray of int64, shape (K,)
        The index of each, -1 for those that are not there.
    """
    if len(table) == 0:
        return np.full(len(keys), -1)
    at = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return np.where(table[at] == keys, at, -1)


def check_captions(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    """Refuse what no metric can judge.

    Parameters
    ----------
    captions, references
        As for `capgpu.metrics.corpus_bleu`.

    Raises
    ------
    TypeError
        For a caption that is a string: it would be judged letter by letter.
    ValueError
        For no captions, unequal numbers, or a picture without references.
    """
    if len(captions) == 0:
        raise ValueError("captions is empty; there is nothing to judge.")
    if len(captions) != len(references):
        raise ValueError(
            f"there are {len(captions)} captions and references for {len(references)}; wanted one list of "
            "references a caption."
        )
    if 0 in map(len, references):
        empty = next(i for i, truths in enumerate(references) if len(truths) == 0)
        raise ValueError(f"references[{empty}] is empty; wanted at least one true caption.")
    kinds = set(map(type, captions)).union(*(map(type, truths) for truths in references))
    if any(issubclass(kind, str) for kind in kinds):
        _refuse_string("captions", captions)
        for i, truths in enumerate(references):
            _refuse_string(f"references[{i}]", truths)


def _refuse_string(name: str, captions: Sequence[Words]) -> None:
    for i, words in enumerate(captions):
        if isinstance(words, str):
            raise TypeError(
                f"{name}[{i}] is the string {words!r}; wanted a list of words. Split it with capgpu.tokens.tokenize."
            )
