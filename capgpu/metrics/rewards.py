"""Rewards of captions given as word ids: CIDEr and BLEU-4 against the references of their pictures.

The scores are those of `capgpu.metrics.cider` and `capgpu.metrics.bleu`, for whole batches and without strings. END
counts as a word, so that a caption that stops too early or too late loses what its last n-grams would have scored. The
document frequencies of CIDEr are those of all references, and so are the lengths of their vectors of n-grams: both are
computed once. An id that stands for any unknown word counts in lengths, but is equal to no word, not even to itself:
each is weighted as a word that one picture has.

Two n-grams are equal where their words are, so that all counts come from comparing every word of a caption with every
word of its references:

    E_1[i, j] = word i of the caption = word j of the reference
    E_n[i, j] = E_{n-1}[i, j] and E_1[i + n - 1, j + n - 1]
    r_n[i] = sum_j E_n[i, j],  c_n[i] likewise with the caption itself

The sum over distinct n-grams of f(count in the caption, count in the reference) is the sum over positions i of
f(c_n[i], r_n[i]) / c_n[i].
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.metrics.bleu import score_counts
from capgpu.metrics.cider import SCALE, SIGMA
from capgpu.metrics.corpus import look_up
from capgpu.validation import check_finite_number

__all__ = ["REWARDS", "CaptionRewards"]

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.integer[Any]]
Bools = npt.NDArray[np.bool_]

#: The scores that a reward may be made of.
REWARDS = ("CIDEr", "BLEU-4")

_MAX_N = 4
#: References whose vectors are computed at a time, which limits the memory of their comparisons.
_REFERENCES_AT_ONCE = 4096
# what follows the last word; different ones, so that no padding is equal to another's
_PADDING, _REFERENCE_PADDING = -1, -2
# unknown words, by their position; above all ids, and different ones for the same reason
_UNKNOWN, _REFERENCE_UNKNOWN = 2**30, 2**30 + 2**29


class CaptionRewards:
    """Rewards of captions of pictures with references: a weighted sum of scores.

    Parameters
    ----------
    references : numpy.ndarray of int, shape (R, T + 1)
        Word ids of the references: START, words, END, padded with NULL.
    images : numpy.ndarray of int, shape (R,)
        The picture of each.
    weights : mapping of str to float
        Factors of some of `REWARDS`.
    null : int
        Id of padding.
    unknown : collection of int
        Ids that stand for words beyond the vocabulary.

    Raises
    ------
    TypeError
        For weights that are no numbers, and references or images that are no arrays of integers.
    ValueError
        For no references, another shape, no weights, unknown names, weights that are not finite, or none above 0.

    Examples
    --------
    >>> import numpy as np
    >>> from capgpu.metrics.rewards import CaptionRewards
    >>> references = np.array([[1, 3, 4, 2], [1, 5, 2, 0]])  # of picture 0, and of picture 1
    >>> rewards = CaptionRewards(references, np.array([0, 1]), {"CIDEr": 1.0})
    >>> rewards(np.array([[3, 4, 2], [3, 2, 0]]), np.array([0, 1])).round(1).tolist()
    [7.5, 0.0]
    """

    def __init__(
        self,
        references: npt.NDArray[Any],
        images: npt.NDArray[Any],
        weights: Mapping[str, float],
        null: int = 0,
        unknown: Collection[int] = (),
    ) -> None:
        _check_ids("references", references, images)
        others = [name for name in weights if name not in REWARDS]
        if others or not weights:
            raise InvalidValueError(
                f"reward: expected some of {', '.join(REWARDS)}, got {others[0] if others else 'none'}."
            )
        for name, weight in weights.items():
            check_finite_number(f"reward[{name!r}]", weight)
        if max(weights.values()) <= 0:
            raise InvalidValueError(
                f"reward: expected a weight above 0, got {dict(weights)}: no caption would be rewarded."
            )
        self.weights = {name: float(weight) for name, weight in weights.items()}
        self._null, self._unknown = null, list(unknown)
        order = np.argsort(images, kind="stable")
        #: Pictures that have references, increasing, the first reference of each, and their number.
        self.images, self._first, self._counts = np.unique(images[order], return_index=True, return_counts=True)
        self._references = self._words(references[order, 1:], _REFERENCE_PADDING, _REFERENCE_UNKNOWN)
        self._lengths = (self._references >= 0).sum(axis=1)
        self._tables = _idf_tables(self._references, np.repeat(np.arange(len(self.images)), self._counts))
        self._squares = np.concatenate(
            [
                self._vectors(self._references[start : start + _REFERENCES_AT_ONCE])
                for start in range(0, len(order), _REFERENCES_AT_ONCE)
            ]
        )

    def __call__(self, captions: npt.NDArray[Any], images: npt.NDArray[Any]) -> Floats:
        """Compute the reward of each caption.

        Parameters
        ----------
        captions : numpy.ndarray of int, shape (B, T)
            Word ids without START: words and END, padded with NULL. A caption without END has not ended.
        images : numpy.ndarray of int, shape (B,)
            The picture of each, which has references.

        Returns
        -------
        numpy.ndarray of float64, shape (B,)
            The rewards. CIDEr is between 0 and 10, and BLEU-4 between 0 and 1.

        Raises
        ------
        TypeError
            For what is not an array of integers.
        ValueError
            For another shape, or a picture without references.
        """
        _check_ids("captions", captions, images)
        words = self._words(captions, _PADDING, _UNKNOWN)
        rows, exists = self._reference_rows(images)
        references = self._references[rows]
        references[~exists] = _REFERENCE_PADDING
        same = words[:, None, :, None] == references[:, :, None, :]
        counts, found = _counts(words), _repetitions(same)
        scores = {
            "CIDEr": lambda: self._cider(words, counts, found, rows, exists),
            "BLEU-4": lambda: self._bleu(words, counts, found, rows, exists),
        }
        return sum((weight * scores[name]() for name, weight in self.weights.items()), np.zeros(len(words)))

    def _words(self, ids: npt.NDArray[Any], padding: int, unknown: int) -> Ints:
        """Return words without NULL, each row followed by `padding`, and unknown words numbered from `unknown` on."""
        is_padding = ids == self._null
        order = np.argsort(is_padding, axis=1, kind="stable")
        words = np.where(is_padding, padding, ids)
        words = np.where(np.isin(ids, self._unknown), unknown + np.arange(ids.shape[1]), words)
        packed: Ints = np.take_along_axis(words, order, axis=1).astype(np.int32)
        return packed

    def _reference_rows(self, images: npt.NDArray[Any]) -> tuple[Ints, Bools]:
        """Return the rows of the references of each picture, and which exist, shape (B, most references)."""
        at = np.searchsorted(self.images, images)
        missing = self.images[np.minimum(at, len(self.images) - 1)] != images
        if missing.any():
            raise InvalidValueError(
                f"images: expected pictures that have references, got {images[missing][0]}, which has none."
            )
        numbers = np.arange(int(self._counts[at].max(initial=1)))
        exists = numbers < self._counts[at, None]
        return np.where(exists, self._first[at, None] + numbers, 0), exists

    def _cider(self, words: Ints, counts: list[Ints], found: list[Ints], rows: Ints, exists: Bools) -> Floats:
        cosines = np.zeros(rows.shape)
        for n, idf in enumerate(self._idf(words)):
            c, r = counts[n], found[n]
            weights = idf**2 / np.maximum(c, 1)
            products = np.einsum("brt,bt->br", np.minimum(c[:, None, :], r) * r, weights)
            norms = np.sqrt((c * idf**2).sum(axis=1)[:, None] * self._squares[rows, n])
            cosines += np.divide(products, norms, out=np.zeros_like(products), where=norms > 0)
        # as in COCO's evaluation, lengths are counted in pairs of words
        pairs = np.maximum((words >= 0).sum(axis=1) - 1, 0)[:, None] - np.maximum(self._lengths[rows] - 1, 0)
        scores = cosines / _MAX_N * np.exp(-(pairs**2) / (2 * SIGMA**2))
        means: Floats = SCALE * np.where(exists, scores, 0.0).sum(axis=1) / exists.sum(axis=1)
        return means

    def _bleu(self, words: Ints, counts: list[Ints], found: list[Ints], rows: Ints, exists: Bools) -> Floats:
        matches = [
            np.rint((np.minimum(c, r.max(axis=1, initial=0)) / np.maximum(c, 1)).sum(axis=1)).astype(np.int64)
            for c, r in zip(counts, found, strict=True)
        ]
        lengths = (words >= 0).sum(axis=1)
        reference_lengths = self._lengths[rows]
        # the closest length, the shorter of two equally close; what does not exist is far away
        distances = np.where(exists, np.abs(reference_lengths - lengths[:, None]), np.iinfo(np.int64).max)
        closest = np.where(distances == distances.min(axis=1, keepdims=True), reference_lengths, np.iinfo(np.int64).max)
        return score_counts(np.stack(matches, axis=1), lengths, closest.min(axis=1))[:, _MAX_N - 1]

    def _vectors(self, words: Ints) -> Floats:
        """Return the squared length of each sentence's vectors of weighted n-grams, shape (S, 4)."""
        idfs = self._idf(words)
        return np.stack([(c * idf**2).sum(axis=1) for c, idf in zip(_counts(words), idfs, strict=True)], axis=1)

    def _idf(self, words: Ints) -> list[Floats]:
        """Return the idf of the n-gram at each position, n = 1 to 4, each of the shape of `words`."""
        result = []
        first, base = words, len(self._tables[0][0])
        numbers = words
        for n, (keys, idf) in enumerate(self._tables):
            if n > 0:
                numbers = _keys(numbers, first, n, base)
            numbers = look_up(keys, numbers.reshape(-1).astype(np.int64)).reshape(words.shape)
            first = numbers if n == 0 else first
            result.append(idf[numbers])
        return result


def _check_ids(name: str, ids: Any, images: Any) -> None:
    """Check that word ids, one row a caption, and the numbers of their pictures are integers of fitting shapes."""
    for argument, array, ndim in ((name, ids, 2), ("images", images, 1)):
        if not isinstance(array, np.ndarray) or array.dtype.kind not in "iu":
            got = getattr(array, "dtype", None) or f"a {type(array).__name__}"
            raise InvalidTypeError(f"{argument}: expected a NumPy array of integers, got {got}.")
        if array.ndim != ndim or array.size == 0:
            expected = "(captions, words)" if ndim == 2 else "(captions,)"
            raise InvalidValueError(f"{argument}: expected shape {expected}, not empty, got {array.shape}.")
    if len(images) != len(ids):
        raise InvalidValueError(f"images: expected one for each of {len(ids)} captions, got {len(images)}.")


def _idf_tables(words: Ints, images: Ints) -> list[tuple[npt.NDArray[np.int64], Floats]]:
    """Return keys and idf of the n-grams in the references of two or more pictures, n = 1 to 4.

    Parameters
    ----------
    words : numpy.ndarray of int, shape (R, T)
        The references, padded with negative numbers, unknown words numbered from ``_UNKNOWN`` on.
    images : numpy.ndarray of int, shape (R,)
        The picture of each, from 0 on.

    Returns
    -------
    list of (numpy.ndarray of int64, numpy.ndarray of float64)
        Increasing keys of K n-grams, and K + 1 idf: log(pictures / pictures with the n-gram). The last one is that of
        all other n-grams, which occur with one picture at most.
    """
    n_images = int(images.max()) + 1
    words = np.where(words < _UNKNOWN, words, -1)
    tables: list[tuple[npt.NDArray[np.int64], Floats]] = []
    first = numbers = words
    for n in range(_MAX_N):
        keys = words if n == 0 else _keys(numbers, first, n, len(tables[0][0]))
        inside = keys >= 0
        grams, index = np.unique(keys[inside], return_inverse=True)
        pairs = np.unique(index * n_images + np.broadcast_to(images[:, None], words.shape)[inside])
        pictures = np.bincount(pairs // n_images, minlength=len(grams))
        several = pictures > 1
        tables.append((grams[several].astype(np.int64), np.log(n_images) - np.log(np.append(pictures[several], 1))))
        numbers = np.full(words.shape, -1)
        numbers[inside] = np.where(several, np.cumsum(several) - 1, -1)[index]
        first = numbers if n == 0 else first
    return tables


def _repetitions(same: Bools) -> list[Ints]:
    """Return r_n[..., i] = sum_j E_n[..., i, j] for n = 1 to 4, from E_1 of shape (..., T, L); each (..., T)."""
    result: list[Ints] = []
    equal = same
    for n in range(_MAX_N):
        if n > 0:
            equal = equal[..., :-1, :-1] & same[..., n:, n:]
        sums: Ints = np.zeros(same.shape[:-1], np.int32)
        if min(equal.shape[-2:]) > 0:
            np.add.reduce(equal, axis=-1, dtype=np.int32, out=sums[..., : equal.shape[-2]])
        result.append(sums)
    return result


def _counts(words: Ints) -> list[Ints]:
    """Return how often the n-gram at each position occurs in its sentence, n = 1 to 4; 0 where none begins."""
    return _repetitions((words[:, :, None] == words[:, None, :]) & (words >= 0)[:, :, None])


def _keys(numbers: Ints, first: Ints, n: int, base: int) -> Ints:
    """Return a key of each (n + 1)-gram, -1 where a number is missing.

    Parameters
    ----------
    numbers, first : numpy.ndarray of int, shape (S, T)
        The numbers of the n-gram and of the word at each position; `base` is above those of words.
    """
    keys = np.full(numbers.shape, -1, np.int64)
    count = numbers.shape[1] - n
    if count > 0:
        grams, last = numbers[:, :count].astype(np.int64), first[:, n:]
        keys[:, :count] = np.where((grams >= 0) & (last >= 0), grams * base + last, -1)
    return keys
