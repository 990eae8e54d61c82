"""Masks of the words that a decoder may not choose at a step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capgpu.backend import Array, array_namespace
from capgpu.errors import InvalidValueError
from capgpu.validation import check_count, check_flag
from capgpu.vocabulary import END, NULL, START, UNK, UNKNOWN_WORD

if TYPE_CHECKING:
    from capgpu.decode.word_model import WordModel

__all__ = ["SUPPRESS_UNK", "TokenMasks"]

#: Whether decoders exclude UNK by default.
SUPPRESS_UNK = True


class TokenMasks:
    """Masks of the words that may not come next.

    Parameters
    ----------
    model : WordModel
        A model whose vocabulary contains ``<START>`` and ``<END>``.
    max_length : int
        Maximum number of words, END included.
    min_length : int
        Minimum number of words, END not included.
    no_repeat_ngram : int
        No n-gram of this length occurs twice in a caption; 0 disables the rule.
    suppress_unk : bool
        Whether to exclude ``<UNK>``, and ``<unk>`` if that is a word of the vocabulary.

    Raises
    ------
    TypeError
        For counts that are not integers, and a `suppress_unk` that is not True or False.
    ValueError
        For settings out of range or that contradict each other, or a vocabulary without a special token.
    """

    def __init__(
        self, model: WordModel, max_length: int, min_length: int, no_repeat_ngram: int, suppress_unk: bool
    ) -> None:
        check_count("max_length", max_length, 1)
        check_count("min_length", min_length, 0)
        check_count("no_repeat_ngram", no_repeat_ngram, 0)
        check_flag("suppress_unk", suppress_unk)
        if min_length > max_length:
            raise InvalidValueError(
                f"min_length: expected at most max_length = {max_length}, got {min_length}. Lower min_length, or raise "
                "max_length."
            )
        size = len(model.word_to_idx)
        for word in (START, END):
            if model.word_to_idx.get(word, size) >= size:
                raise InvalidValueError(
                    f"word_to_idx: expected an id of {word} below {size}, got none. Decoding needs it."
                )
        # products of NumPy's small integers overflow
        self.max_length, self.min_length, self.ngram = int(max_length), int(min_length), int(no_repeat_ngram)
        self.null, self.start, self.end = (model.word_to_idx[word] for word in (NULL, START, END))
        excluded = {self.null, self.start}
        if suppress_unk:
            # vocabularies of earlier versions contain <unk> as a word
            excluded |= {model.word_to_idx[word] for word in (UNK, UNKNOWN_WORD) if word in model.word_to_idx}
        n_allowed = len(set(model.word_to_idx.values()) - excluded - {self.end})
        # with fewer words, a caption could reach a step at which every word and END are excluded
        if min_length > (n_allowed if no_repeat_ngram else min_length * n_allowed):
            raise InvalidValueError(
                f"min_length: expected at most {n_allowed if no_repeat_ngram else 0} with {n_allowed} allowed words"
                + (f" and no repeated {no_repeat_ngram}-gram" if no_repeat_ngram else "")
                + f", got {min_length}. Lower min_length."
            )
        like = model.params["b_vocab"]
        xp = array_namespace(like)
        classes = xp.arange(size, dtype=xp.int32, device=like.device)
        self._mask = classes != classes
        for index in excluded:
            self._mask = self._mask | (classes == index)
        self._early_mask = self._mask | (classes == self.end)

    def step_mask(self, step: int) -> Array:
        """Return the mask of the words excluded for all captions at a step, bool (V,)."""
        return self._early_mask if step < self.min_length else self._mask

    def repeated_words(self, history: Array) -> Array | None:
        """Return the words that would repeat an n-gram of their caption.

        Parameters
        ----------
        history : array of int32, shape (M, t)
            The captions so far.

        Returns
        -------
        array of int32, shape (M, B), or None
            Ids of the words, padded with NULL; None if there are none.
        """
        xp = array_namespace(history)
        prefix = self.ngram - 1
        windows = history.shape[1] - prefix
        if self.ngram == 0 or windows < 1:
            return None
        following = history[:, prefix:]
        for offset in range(prefix):
            same = history[:, offset : offset + windows] == history[:, windows + offset, None]
            following = xp.where(same, following, xp.full_like(following, self.null))
        return following
