"""Beam search: the best captions found by following several of each picture at once.

Of each picture K hypotheses are in the beam: living ones, which are extended, and ended ones, which keep their score
and are never extended. At each step every living hypothesis is extended by its K best words (more cannot be needed);
the K best of these extensions and of the ended hypotheses make the next beam. Ended ones leave the race for places
only to better *ended* ones: a living hypothesis that is ahead now may fall behind later. What has not ended after the
last step counts as it is.

A picture is settled as soon as nothing that lives can overtake its best ended captions any more: a hypothesis scores
highest if all words to come are certain and the caption is as long as allowed. Settled pictures and ended hypotheses
have no rows in the states, so that nothing is computed for them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capgpu.backend import Array, array_namespace
from capgpu.checks import check_count, check_positive
from capgpu.decode.rules import Decoded, Rules, check_written, scored
from capgpu.dtypes import sum_dtype
from capgpu.kernels import kernels_for

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN

__all__ = ["beam_search"]

#: Of the longest captions: what is divided by more may vanish.
_LARGEST_LOG_PENALTY = 60.0


def beam_search(
    model: CaptioningRNN,
    features: Array,
    width: int = 5,
    *,
    n_best: int = 1,
    length_penalty: float = 0.0,
    early_stop: bool = False,
    max_length: int = 30,
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    suppress_unk: bool = False,
) -> Decoded:
    """Search for the most probable captions, following `width` hypotheses a picture.

    Parameters
    ----------
    model, features, max_length, min_length, no_repeat_ngram, suppress_unk
        As for `capgpu.decode.greedy`.
    width : int
        Hypotheses a picture. 1 is greedy decoding; `max_length` - 1 times the vocabulary's size multiplied by
        itself is exhaustive search.
    n_best : int
        Captions to return of each picture, at most `width`.
    length_penalty : float
        Exponent alpha of the penalty ``lp = ((5 + length) / 6) ** alpha`` by which a hypothesis' log-probability is
        divided to rank it (Wu et al. 2016, "Google's Neural Machine Translation System", eq. 14), its length
        counted with END. 0 ranks by log-probability, which favours short captions; Wu et al. use 0.6 to 0.7.
    early_stop : bool
        Settle a picture as soon as `n_best` captions have ended, even if a living one could still overtake them.

    Returns
    -------
    Decoded
        `n_best` different captions a picture, the best first.

    Raises
    ------
    TypeError, ValueError
        As `capgpu.decode.greedy`; and for a width below 1, `n_best` out of ``1..width``, a penalty that is negative,
        not finite, or too large to tell captions apart.
    FloatingPointError
        As `capgpu.decode.greedy`.
    """
    check_count("width", width, 1)
    check_count("n_best", n_best, 1)
    if n_best > width:
        raise ValueError(f"n_best is {n_best} and width {width}: a beam has no more captions than its width. Widen it.")
    if length_penalty != 0:
        check_positive("length_penalty", length_penalty)
    check_count("max_length", max_length, 1)
    if length_penalty * math.log((5 + max_length) / 6) > _LARGEST_LOG_PENALTY:
        raise ValueError(
            f"length_penalty is {length_penalty!r}: log-probabilities of captions of {max_length} words, divided by "
            "such a penalty, would all be 0. Wu et al. use 0.6 to 0.7."
        )
    rules = Rules(model, max_length, min_length, no_repeat_ngram, suppress_unk)
    xp, device = array_namespace(features), features.device
    count = features.shape[0]
    state = model.begin(features, count * width * max_length)
    candidates = min(width, len(model.word_to_idx))

    def penalty(length: int) -> float:
        return float(((5 + length) / 6) ** length_penalty)

    beam = _Beam(xp, count, width, rules, sum_dtype(state.h.dtype, xp), device)
    for step in range(max_length):
        alive = beam.alive()
        if alive.shape[0] == 0:
            break
        banned = rules.banned(xp.take(beam.words, alive, axis=0))
        logits, state = scored(model, state, xp.take(beam.last, alive), xp.take(beam.row, alive))
        log_probs, words = kernels_for(logits).top_words(logits, candidates, rules.barred(step), banned)
        beam.extend(alive, log_probs, words, penalty(step + 1), step + 1 == max_length)
        beam.settle(n_best, early_stop, penalty(max_length))
    return check_written(beam.best(n_best))


class _Beam:
    """The hypotheses of N pictures, K places each; flat arrays have one entry or row a place, picture by picture.

    Attributes
    ----------
    scores : array, shape (N, K)
        Log-probability of the living hypothesis in a place; -inf where none is.
    words, log_probs : array, shape (N K, t)
        What it consists of.
    last, row : array, shape (N K,)
        Its last word, and its parent's row of the states.
    ended_scores, ended_words, ended_log_probs : array, shape (N, K), (N, K, T), (N, K, T)
        The best that have ended, the best first; scores divided by the penalty, -inf where none is.
    """

    def __init__(self, xp: Any, count: int, width: int, rules: Rules, dtype: Any, device: Any) -> None:
        self.xp, self.rules, self.shape = xp, rules, (count, width)
        self.integers: Callable[..., Array] = lambda *extents: xp.zeros(extents, dtype=xp.int64, device=device)
        places = xp.arange(width, device=device) + self.integers(count, 1)
        zero = xp.zeros((count, width), dtype=dtype, device=device)
        self.never = zero - math.inf
        # one hypothesis a picture at first, of no words
        self.scores = xp.where(places == 0, zero, self.never)
        self.words = xp.zeros((count * width, 0), dtype=xp.int32, device=device)
        self.log_probs = xp.zeros((count * width, 0), dtype=dtype, device=device)
        self.last = xp.full((count * width,), rules.start, dtype=xp.int32, device=device)
        self.pictures = xp.arange(count, device=device)[:, None]
        self.row = xp.reshape(self.pictures + self.integers(1, width), (-1,))
        self.ended_scores = self.never
        self.ended_words = xp.full((count, width, rules.max_length), rules.null, dtype=xp.int32, device=device)
        self.ended_log_probs = xp.zeros((count, width, rules.max_length), dtype=dtype, device=device)

    def alive(self) -> Array:
        """Return the places where a hypothesis lives, rising."""
        found: Array = self.xp.nonzero(self.xp.reshape(self.scores > -math.inf, (-1,)))[0]
        return found

    def extend(self, alive: Array, log_probs: Array, words: Array, penalty: float, last_step: bool) -> None:
        """Extend what lives, keep the best, and take out what has ended.

        Parameters
        ----------
        alive : array of int, shape (M,)
            As `alive` returns.
        log_probs, words : array, shape (M, C)
            Words that may follow, -inf where there is none.
        penalty : float
            Of the extended hypotheses' length.
        last_step : bool
            Everything ends.
        """
        xp, (count, width) = self.xp, self.shape
        choices = log_probs.shape[1]
        # row of each place among the living ones
        living = xp.reshape(self.scores > -math.inf, (-1,))
        rows = xp.cumulative_sum(xp.astype(living, xp.int64)) - 1
        rows = xp.where(living, rows, xp.zeros_like(rows))
        extended = xp.reshape(xp.take(log_probs, rows, axis=0), (count, width, choices)) + self.scores[:, :, None]
        ranked = xp.concat([self.ended_scores, xp.reshape(extended, (count, -1)) / penalty], axis=1)
        # equal scores: what has ended first, then by the rank of the parent and of the word
        order = xp.argsort(-ranked, axis=1, stable=True)[:, :width]
        ranks = xp.take_along_axis(ranked, order, axis=1)
        fresh = (order >= width) & (ranks > -math.inf)
        chosen = xp.where(fresh, order - width, xp.zeros_like(order))
        parent = xp.reshape(chosen // choices + self.pictures * width, (-1,))
        self.row = xp.take(rows, parent)
        place = self.row * choices + xp.reshape(chosen % choices, (-1,))
        self.last = xp.take(xp.reshape(words, (-1,)), place)
        added = xp.take(xp.reshape(log_probs, (-1,)), place)
        self.words = xp.concat([xp.take(self.words, parent, axis=0), self.last[:, None]], axis=1)
        self.log_probs = xp.concat([xp.take(self.log_probs, parent, axis=0), added[:, None]], axis=1)
        scores = xp.reshape(xp.take(xp.reshape(self.scores, (-1,)), parent) + added, (count, width))
        ended = fresh if last_step else fresh & xp.reshape(self.last == self.rules.end, (count, width))
        if bool(xp.any(ended)):
            self._collect(xp.where(ended, ranks, self.never))
        self.scores = xp.where(fresh & ~ended, scores, self.never)

    def _collect(self, ranks: Array) -> None:
        """Take hypotheses of the beam among those that have ended, where `ranks` (N, K) is not -inf."""
        xp, (count, width) = self.xp, self.shape
        ranked = xp.concat([self.ended_scores, ranks], axis=1)
        order = xp.argsort(-ranked, axis=1, stable=True)[:, :width]
        self.ended_scores = xp.take_along_axis(ranked, order, axis=1)
        flat = xp.reshape(order + self.pictures * (2 * width), (-1,))

        def merged(before: Array, fresh: Array) -> Array:
            # what has ended before is shorter: its end is as empty as that of the fresh captions has to be
            empty = before[:, :, fresh.shape[1] :]
            fresh = xp.concat([xp.reshape(fresh, (count, width, fresh.shape[1])), empty], axis=2)
            both = xp.reshape(xp.concat([before, fresh], axis=1), (2 * count * width, -1))
            return xp.reshape(xp.take(both, flat, axis=0), before.shape)

        self.ended_words = merged(self.ended_words, self.words)
        self.ended_log_probs = merged(self.ended_log_probs, self.log_probs)

    def settle(self, n_best: int, early_stop: bool, penalty: float) -> None:
        """Let nothing live on that cannot come to be among the best; `penalty` is that of the longest captions."""
        xp = self.xp
        least = self.ended_scores[:, n_best - 1 : n_best]
        # log-probabilities only fall, and no penalty is greater
        hopeless = least > -math.inf if early_stop else self.scores / penalty <= least
        self.scores = xp.where(hopeless, self.never, self.scores)

    def best(self, n_best: int) -> Decoded:
        """Return the best captions of each picture that have ended."""
        xp = self.xp
        scores = self.ended_scores[:, :n_best]
        there = (scores > -math.inf)[:, :, None]
        words, log_probs = self.ended_words[:, :n_best, :], self.ended_log_probs[:, :n_best, :]
        words = xp.where(there, words, xp.full_like(words, self.rules.null))
        return Decoded(words, xp.where(there, log_probs, xp.zeros_like(log_probs)), scores)
