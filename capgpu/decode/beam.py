"""Beam search: the K best hypotheses of each picture are extended together.

The beam of a picture holds K hypotheses: active ones, which are extended, and ended ones, which keep their score. At
each step every active hypothesis is extended by its K best words (more cannot enter the beam); the K best of these
extensions and of the ended hypotheses form the next beam. An ended hypothesis is displaced only by a better *ended*
one: an active hypothesis with a better score may become worse. After the last step all active hypotheses end.

Active hypotheses that can no longer enter the n-best list are pruned. The bound is the score of a hypothesis whose
remaining words all have probability 1 and whose length is the maximum. Finished pictures and ended hypotheses have no
rows in the states, so that nothing is computed for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capgpu.backend import Array, array_namespace, free_device_memory, is_host_array
from capgpu.decode.loop import next_logits, picture_count
from capgpu.decode.result import DecodeResult, check_finite_scores
from capgpu.decode.token_masks import SUPPRESS_UNK, TokenMasks
from capgpu.dtypes import sum_dtype
from capgpu.errors import InvalidValueError
from capgpu.host_memory import free_host_memory
from capgpu.kernels import kernels_for
from capgpu.validation import check_count, check_not_negative

if TYPE_CHECKING:
    from capgpu.decode.word_model import WordModel

__all__ = ["beam_search"]

#: Limit of the logarithm of the penalty: log-probabilities divided by more could underflow.
_LARGEST_LOG_PENALTY = 60.0
#: Bytes of a search that is begun without looking at the free memory.
_SMALL_SEARCH = 1 << 28


def beam_search(
    model: WordModel,
    features: Array,
    width: int = 5,
    *,
    n_best: int = 1,
    length_penalty: float = 0.0,
    early_stop: bool = False,
    max_length: int = 30,
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    suppress_unk: bool = SUPPRESS_UNK,
) -> DecodeResult:
    """Search for the most probable captions with `width` hypotheses per picture.

    Parameters
    ----------
    model, features, max_length, min_length, no_repeat_ngram, suppress_unk
        As for `capgpu.decode.greedy`.
    width : int
        Hypotheses per picture. 1 is greedy decoding; the vocabulary size to the power of `max_length` - 1 is
        exhaustive search.
    n_best : int
        Captions to return per picture, at most `width`.
    length_penalty : float
        Exponent alpha of ``lp = ((5 + length) / 6) ** alpha``, the divisor of the log-probability in the score of a
        hypothesis (Wu et al. 2016, "Google's Neural Machine Translation System", eq. 14); the length includes END. 0
        ranks by log-probability, which favours short captions; Wu et al. use 0.6 to 0.7.
    early_stop : bool
        Finish a picture as soon as `n_best` captions have ended, even if an active one could still become better.

    Returns
    -------
    DecodeResult
        `n_best` different captions per picture, the best first.

    Raises
    ------
    TypeError, ValueError
        As `capgpu.decode.greedy`; and for a width below 1, or one whose hypotheses do not fit the free memory,
        `n_best` outside of ``1..width``, or a penalty that is negative, not finite, or so large that scores underflow.
    FloatingPointError
        As `capgpu.decode.greedy`.
    """
    check_count("width", width, 1)
    check_count("n_best", n_best, 1)
    if n_best > width:
        raise InvalidValueError(f"n_best: expected at most width = {width}, got {n_best}. Increase width.")
    check_not_negative("length_penalty", length_penalty)
    check_count("max_length", max_length, 1)
    if length_penalty * math.log((5 + max_length) / 6) > _LARGEST_LOG_PENALTY:
        raise InvalidValueError(
            f"length_penalty: expected a penalty by which log-probabilities of {max_length} words can be divided, got "
            f"{length_penalty!r}. Wu et al. use 0.6 to 0.7."
        )
    masks = TokenMasks(model, max_length, min_length, no_repeat_ngram, suppress_unk)
    xp, device = array_namespace(features=features), features.device
    count, width, max_length = picture_count(features), int(width), masks.max_length
    candidates = min(width, len(model.word_to_idx))
    _check_memory(model, count, width, max_length)
    state = model.begin(features, count * width * max_length)

    def penalty(length: int) -> float:
        return float(((5 + length) / 6) ** length_penalty)

    beam = _Beam(xp, count, width, masks, sum_dtype(state.h.dtype, xp), device)
    for step in range(max_length):
        active = beam.active()
        if active.shape[0] == 0:
            break
        repeated = masks.repeated_words(xp.take(beam.words, active, axis=0))
        logits, state = next_logits(model, state, xp.take(beam.last, active), xp.take(beam.row, active))
        log_probs, words = kernels_for(logits).top_words(logits, candidates, masks.step_mask(step), repeated)
        beam.extend(log_probs, words, penalty(step + 1), step + 1 == max_length)
        beam.prune(n_best, early_stop, penalty(max_length))
    return check_finite_scores(beam.best(n_best))


def _check_memory(model: WordModel, count: int, width: int, max_length: int) -> None:
    """Check that the arrays of a search fit the free memory; small ones are not checked."""
    like = model.params["b_vocab"]
    words, hidden, value = len(model.word_to_idx), model.config["hidden_dim"], max(model.dtype.itemsize, 4)
    # after t steps there are at most `words` to the power of t hypotheses
    active = width if math.log(width) <= (max_length - 1) * math.log(words) else words ** (max_length - 1)
    per_picture = active * (words + 4 * hidden) * value  # scores and states
    per_picture += width * min(width, words) * (3 * value + 8)  # candidates of the next beam and their order
    per_picture += width * max_length * 4 * (4 + value)  # the captions so far, before and after a step
    needed = count * per_picture
    if needed < _SMALL_SEARCH:
        return
    free = free_host_memory() if is_host_array(like) else free_device_memory()
    if free is not None and needed > free:
        raise InvalidValueError(
            f"width: expected a beam that fits the free memory, {free / 1e9:.1f} GB, got {width:,} for {count:,} "
            f"pictures, which takes about {needed / 1e9:.1f} GB. Lower width, or search for fewer pictures at a time."
        )


class _Beam:
    """The hypotheses of N pictures in K slots each; flat arrays have one entry or row per slot, picture by picture.

    Attributes
    ----------
    scores : array, shape (N, K)
        Log-probability of the active hypothesis in a slot; -inf for an empty slot.
    words, log_probs : array, shape (N K, t)
        The words of the hypotheses and their log-probabilities.
    last, row : array, shape (N K,)
        Last word of a hypothesis, and its parent's row in the states.
    ended_scores, ended_words, ended_log_probs : array, shape (N, K), (N, K, T), (N, K, T)
        The best ended hypotheses, the best first; scores are divided by the penalty, -inf for an empty slot.
    """

    def __init__(self, xp: Any, count: int, width: int, masks: TokenMasks, dtype: Any, device: Any) -> None:
        self.xp, self.masks, self.shape = xp, masks, (count, width)
        self.integers: Callable[..., Array] = lambda *extents: xp.zeros(extents, dtype=xp.int64, device=device)
        slots = xp.arange(width, device=device) + self.integers(count, 1)
        zero = xp.zeros((count, width), dtype=dtype, device=device)
        self.no_score = zero - math.inf
        # initially one hypothesis per picture, without words
        self.scores = xp.where(slots == 0, zero, self.no_score)
        self.words = xp.zeros((count * width, 0), dtype=xp.int32, device=device)
        self.log_probs = xp.zeros((count * width, 0), dtype=dtype, device=device)
        self.last = xp.full((count * width,), masks.start, dtype=xp.int32, device=device)
        self.pictures = xp.arange(count, device=device)[:, None]
        self.row = xp.reshape(self.pictures + self.integers(1, width), (-1,))
        self.ended_scores = self.no_score
        self.ended_words = xp.full((count, width, masks.max_length), masks.null, dtype=xp.int32, device=device)
        self.ended_log_probs = xp.zeros((count, width, masks.max_length), dtype=dtype, device=device)

    def active(self) -> Array:
        """Return the slots of active hypotheses, increasing."""
        slots: Array = self.xp.nonzero(self.xp.reshape(self.scores > -math.inf, (-1,)))[0]
        return slots

    def extend(self, log_probs: Array, words: Array, penalty: float, last_step: bool) -> None:
        """Extend the active hypotheses, keep the best, and collect those that have ended.

        Parameters
        ----------
        log_probs, words : array, shape (M, C)
            Candidates for the next word of each active hypothesis; -inf if there are fewer than C.
        penalty : float
            Length penalty of the extended hypotheses.
        last_step : bool
            Whether all hypotheses end at this step.
        """
        xp, (count, width) = self.xp, self.shape
        choices = log_probs.shape[1]
        # row of each slot among the active ones
        is_active = xp.reshape(self.scores > -math.inf, (-1,))
        rows = xp.cumulative_sum(xp.astype(is_active, xp.int64)) - 1
        rows = xp.where(is_active, rows, xp.zeros_like(rows))
        extended = xp.reshape(xp.take(log_probs, rows, axis=0), (count, width, choices)) + self.scores[:, :, None]
        ranked = xp.concat([self.ended_scores, xp.reshape(extended, (count, -1)) / penalty], axis=1)
        # ties: ended hypotheses first, then by the rank of the parent and of the word
        order = xp.argsort(-ranked, axis=1, stable=True)[:, :width]
        ranks = xp.take_along_axis(ranked, order, axis=1)
        extends = (order >= width) & (ranks > -math.inf)
        chosen = xp.where(extends, order - width, xp.zeros_like(order))
        parent = xp.reshape(chosen // choices + self.pictures * width, (-1,))
        self.row = xp.take(rows, parent)
        candidate = self.row * choices + xp.reshape(chosen % choices, (-1,))
        self.last = xp.take(xp.reshape(words, (-1,)), candidate)
        added = xp.take(xp.reshape(log_probs, (-1,)), candidate)
        self.words = xp.concat([xp.take(self.words, parent, axis=0), self.last[:, None]], axis=1)
        self.log_probs = xp.concat([xp.take(self.log_probs, parent, axis=0), added[:, None]], axis=1)
        scores = xp.reshape(xp.take(xp.reshape(self.scores, (-1,)), parent) + added, (count, width))
        ended = extends if last_step else extends & xp.reshape(self.last == self.masks.end, (count, width))
        if bool(xp.any(ended)):
            self._collect(xp.where(ended, ranks, self.no_score))
        self.scores = xp.where(extends & ~ended, scores, self.no_score)

    def _collect(self, ranks: Array) -> None:
        """Merge hypotheses of the beam whose `ranks` (N, K) are not -inf into the ended ones."""
        xp, (count, width) = self.xp, self.shape
        ranked = xp.concat([self.ended_scores, ranks], axis=1)
        order = xp.argsort(-ranked, axis=1, stable=True)[:, :width]
        self.ended_scores = xp.take_along_axis(ranked, order, axis=1)
        flat = xp.reshape(order + self.pictures * (2 * width), (-1,))

        def merged(ended: Array, new: Array) -> Array:
            # earlier ended captions are shorter: their tails are the padding that the new ones need
            padding = ended[:, :, new.shape[1] :]
            new = xp.concat([xp.reshape(new, (count, width, new.shape[1])), padding], axis=2)
            both = xp.reshape(xp.concat([ended, new], axis=1), (2 * count * width, -1))
            return xp.reshape(xp.take(both, flat, axis=0), ended.shape)

        self.ended_words = merged(self.ended_words, self.words)
        self.ended_log_probs = merged(self.ended_log_probs, self.log_probs)

    def prune(self, n_best: int, early_stop: bool, penalty: float) -> None:
        """Drop hypotheses that can no longer enter the n-best list; `penalty` is that of the longest captions."""
        xp = self.xp
        worst = self.ended_scores[:, n_best - 1 : n_best]
        # log-probabilities only decrease, and no penalty is larger: a bound of all future scores
        pruned = worst > -math.inf if early_stop else self.scores / penalty <= worst
        self.scores = xp.where(pruned, self.no_score, self.scores)

    def best(self, n_best: int) -> DecodeResult:
        """Return the best ended captions of each picture."""
        xp = self.xp
        scores = self.ended_scores[:, :n_best]
        exists = (scores > -math.inf)[:, :, None]
        words, log_probs = self.ended_words[:, :n_best, :], self.ended_log_probs[:, :n_best, :]
        words = xp.where(exists, words, xp.full_like(words, self.masks.null))
        return DecodeResult(words, xp.where(exists, log_probs, xp.zeros_like(log_probs)), scores)
