"""What all decoders share: their result, and the rules about which words may come next."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from capgpu.backend import Array, array_namespace
from capgpu.checks import check_count
from capgpu.dtypes import widened

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN, DecodingState

__all__ = ["Decoded", "Rules", "check_written", "scored"]


class Decoded(NamedTuple):
    """K captions of each of N pictures, the best first.

    Log-probabilities and scores have the model's dtype; float32 for models in half precision.

    Attributes
    ----------
    ids : array of int32, shape (N, K, T)
        Words without START; NULL after END. T is the `max_length` asked for.
    log_probs : array, shape (N, K, T)
        The model's log-probability of each word (END's too), in nats; 0 where NULL.
    scores : array, shape (N, K)
        What the captions are ranked by: the sum of their log-probabilities, in a beam search with a length penalty
        divided by it. -inf, with NULL for words, where fewer than K captions can be written at all.
    """

    ids: Array
    log_probs: Array
    scores: Array


class Rules:
    """Which words may come next.

    Parameters
    ----------
    model : CaptioningRNN
        Its vocabulary needs ``<START>`` and ``<END>``.
    max_length : int
        Words to write at most, END among them.
    min_length : int
        Words to write at least, END not among them.
    no_repeat_ngram : int
        No run of so many words comes twice in a caption; 0: no such rule.
    suppress_unk : bool
        ``<UNK>`` is never written.

    Raises
    ------
    TypeError
        For settings that are no whole numbers.
    ValueError
        For settings out of range or that exclude each other, or a vocabulary that lacks a special word.
    """

    def __init__(
        self, model: CaptioningRNN, max_length: int, min_length: int, no_repeat_ngram: int, suppress_unk: bool
    ) -> None:
        check_count("max_length", max_length, 1)
        check_count("min_length", min_length, 0)
        check_count("no_repeat_ngram", no_repeat_ngram, 0)
        if min_length > max_length:
            raise ValueError(
                f"min_length is {min_length} and max_length {max_length}: no caption is both. Lower min_length, or "
                "raise max_length."
            )
        size = len(model.word_to_idx)
        for word in ("<START>", "<END>"):
            if model.word_to_idx.get(word, size) >= size:
                raise ValueError(f"the vocabulary has no {word} with an id below its length: decoding needs one.")
        self.max_length, self.min_length, self.ngram = max_length, min_length, no_repeat_ngram
        self.null, self.start, self.end = (model.word_to_idx[word] for word in ("<NULL>", "<START>", "<END>"))
        never = {self.null, self.start}
        if suppress_unk and "<UNK>" in model.word_to_idx:
            never.add(model.word_to_idx["<UNK>"])
        writable = len(set(model.word_to_idx.values()) - never - {self.end})
        # with fewer, a caption could come to where every word is forbidden and END is, too
        if min_length > (writable if no_repeat_ngram else min_length * writable):
            raise ValueError(
                f"min_length is {min_length}, but the vocabulary has {writable} words that may be written"
                + (f" and no {no_repeat_ngram}-gram may come twice" if no_repeat_ngram else "")
                + ". Lower min_length."
            )
        like = model.params["b_vocab"]
        xp = array_namespace(like)
        classes = xp.arange(size, dtype=xp.int32, device=like.device)
        self._barred = classes != classes
        for index in never:
            self._barred = self._barred | (classes == index)
        self._barred_early = self._barred | (classes == self.end)

    def barred(self, step: int) -> Array:
        """Return which words no caption may have at a step, bool (V,)."""
        return self._barred_early if step < self.min_length else self._barred

    def banned(self, history: Array) -> Array | None:
        """Return the words that would make single captions repeat themselves.

        Parameters
        ----------
        history : array of int32, shape (M, t)
            What they consist of so far.

        Returns
        -------
        array of int32, shape (M, B), or None
            Filled up with NULL.
        """
        xp = array_namespace(history)
        before = self.ngram - 1
        windows = history.shape[1] - before
        if self.ngram == 0 or windows < 1:
            return None
        following = history[:, before:]
        for place in range(before):
            same = history[:, place : place + windows] == history[:, windows + place, None]
            following = xp.where(same, following, xp.full_like(following, self.null))
        return following


def scored(
    model: CaptioningRNN, state: DecodingState, words: Array, parents: Array | None = None
) -> tuple[Array, DecodingState]:
    """Read one word and score the next, as `CaptioningRNN.step`; the scores of half precision in float32.

    Sums over a vocabulary and over a caption, and random numbers, are too coarse in 16 bits.
    """
    logits, state = model.step(state, words, parents)
    return widened(logits), state


def check_written(decoded: Decoded) -> Decoded:
    """Return what was written, unless the model could not tell which words are probable.

    Parameters
    ----------
    decoded : Decoded
        A decoder's result.

    Returns
    -------
    Decoded
        The same.

    Raises
    ------
    FloatingPointError
        If a picture's best caption has a score that is NaN or infinite.
    """
    xp = array_namespace(decoded.scores)
    wrong = int(xp.sum(xp.astype(~xp.isfinite(decoded.scores[:, 0]), xp.int64)))
    if wrong:
        raise FloatingPointError(
            f"captions of {wrong} of {decoded.scores.shape[0]} pictures have a probability that is NaN or infinite: "
            "the model's parameters are not finite, or far too large. Load them from a good file, or train again."
        )
    return decoded
