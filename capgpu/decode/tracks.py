"""Decoders that follow one caption a picture: greedy, and sampling."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING

from capgpu.backend import Array, array_namespace
from capgpu.checks import check_count, check_positive
from capgpu.decode.rules import Decoded, Rules, check_written, scored
from capgpu.dtypes import sum_dtype
from capgpu.kernels import kernels_for
from capgpu.kernels.reference.words import leave_out, log_softmax
from capgpu.random import fold_key, uniform

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN

__all__ = ["greedy", "sample"]

#: (step, logits, barred, banned) -> word and log-probability of each row.
Choice = Callable[[int, Array, Array, Array | None], tuple[Array, Array]]


def greedy(
    model: CaptioningRNN,
    features: Array,
    *,
    max_length: int = 30,
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    suppress_unk: bool = False,
) -> Decoded:
    """Write the most probable word at each step; of equal ones the least id.

    Parameters
    ----------
    model : CaptioningRNN
        Its vocabulary needs ``<START>`` and ``<END>``.
    features : array, shape (N, D)
        Image features, in the library of the parameters.
    max_length, min_length : int
        Words to write at most, END among them; and at least, END not among them.
    no_repeat_ngram : int
        No run of so many words comes twice in a caption; 0: no such rule.
    suppress_unk : bool
        ``<UNK>`` is never written.

    Returns
    -------
    Decoded
        One caption a picture (K = 1).

    Raises
    ------
    TypeError
        For settings that are no whole numbers, or arrays of different libraries.
    ValueError
        For settings out of range or that exclude each other, a vocabulary that lacks a special word, or features
        that do not fit.
    FloatingPointError
        For parameters that are not finite.

    Notes
    -----
    The words are those of ``model.sample(features, max_length, stop_at_end=True)``, unless that would write NULL or
    START.
    """
    rules = Rules(model, max_length, min_length, no_repeat_ngram, suppress_unk)

    def choose(step: int, logits: Array, barred: Array, banned: Array | None) -> tuple[Array, Array]:
        log_probs, words = kernels_for(logits).top_words(logits, 1, barred, banned)
        return words[:, 0], log_probs[:, 0]

    return _follow(model, features, rules, choose)


def sample(
    model: CaptioningRNN,
    features: Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    first: int = 0,
    max_length: int = 30,
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    suppress_unk: bool = False,
) -> Decoded:
    """Draw each word at random from the model's distribution, or from its head.

    Parameters
    ----------
    model, features, max_length, min_length, no_repeat_ngram, suppress_unk
        As for `greedy`.
    temperature : float
        Scores are divided by it: below 1 the probable words come more often, above 1 less.
    top_k : int, optional
        Only the so many most probable words are drawn from.
    top_p : float, optional
        Only the most probable words that together have this probability are drawn from, as few as possible (the
        nucleus of Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration"); after `top_k`, if both are
        given.
    seed : int, optional
        The same seed gives the same random numbers, on every backend; by default it is fresh each time.
    first : int
        Number of the first picture in the whole of which `features` is a batch. A picture's random numbers depend on
        its number and the seed alone, so that batches of any size give the same captions.

    Returns
    -------
    Decoded
        One caption a picture (K = 1). Log-probabilities are the model's own, before temperature and truncation.

    Raises
    ------
    TypeError, ValueError
        As `greedy`; and for a temperature that is not positive, `top_k` below 1, `top_p` out of ``(0, 1]``, `first`
        below 0.
    FloatingPointError
        As `greedy`.
    """
    check_positive("temperature", temperature)
    if top_k is not None:
        check_count("top_k", top_k, 1)
    if top_p is not None:
        check_positive("top_p", top_p)
        if top_p > 1:
            raise ValueError(f"top_p is {top_p!r}; wanted a probability in (0, 1].")
    check_count("first", first, 0)
    key = secrets.randbits(64) if seed is None else seed
    rules = Rules(model, max_length, min_length, no_repeat_ngram, suppress_unk)

    def choose(step: int, logits: Array, barred: Array, banned: Array | None) -> tuple[Array, Array]:
        xp = array_namespace(logits)
        log_probs = log_softmax(logits)
        chances = leave_out(log_probs, barred, banned)
        order = None
        if top_k is not None or top_p is not None:
            order = xp.argsort(-chances, axis=1, stable=True)
            chances = xp.take_along_axis(chances, order, axis=1)
        weights = _weights(chances, temperature)
        if order is not None:
            weights = _head(weights, top_k, top_p)
        words = _draw(weights, uniform(fold_key(key, step), first, weights.shape[0], weights))[:, None]
        if order is not None:
            words = xp.take_along_axis(order, words, axis=1)
        return xp.astype(words[:, 0], xp.int32), xp.take_along_axis(log_probs, words, axis=1)[:, 0]

    return _follow(model, features, rules, choose)


def _weights(log_probs: Array, temperature: float) -> Array:
    """Weigh words by their probabilities at a temperature, the most probable ones 1; `log_probs` (M, V)."""
    xp = array_namespace(log_probs)
    limits = xp.finfo(log_probs.dtype)
    # out of these bounds nothing changes any more, but the division would end in infinities: one word alone is drawn
    # below, all words equally often above
    temperature = min(max(float(temperature), float(limits.eps) / 4096), float(limits.max))
    return xp.exp((log_probs - xp.max(log_probs, axis=1, keepdims=True)) / temperature)


def _head(weights: Array, top_k: int | None, top_p: float | None) -> Array:
    """Put 0 in the place of what is not drawn from; `weights` (M, V) fall from left to right."""
    xp = array_namespace(weights)
    nothing = xp.zeros_like(weights)
    if top_k is not None:
        ranks = xp.arange(weights.shape[1], device=weights.device)
        weights = xp.where(ranks[None, :] < top_k, weights, nothing)
    if top_p is not None:
        sums = xp.cumulative_sum(weights, axis=1)
        # a word is kept while those before it do not suffice
        weights = xp.where(sums - weights < top_p * sums[:, -1:], weights, nothing)
    return weights


def _draw(weights: Array, numbers: Array) -> Array:
    """Draw a column of each row in proportion to its weights, by inversion of their sums."""
    xp = array_namespace(weights, numbers)
    sums = xp.where(weights > 0, xp.cumulative_sum(weights, axis=1), xp.zeros_like(weights))
    # a number below 1 times the greatest sum stays below it, so that there always is a column
    passed = sums > numbers[:, None] * xp.max(sums, axis=1, keepdims=True)
    return xp.argmax(xp.astype(passed, xp.int8), axis=1)


def _follow(model: CaptioningRNN, features: Array, rules: Rules, choose: Choice) -> Decoded:
    """Write one caption a picture until all have ended."""
    xp = array_namespace(features)
    count = features.shape[0]
    state = model.begin(features, count * rules.max_length)
    device = features.device
    words = xp.full((count,), rules.start, dtype=xp.int32, device=device)
    null = xp.full((count,), rules.null, dtype=xp.int32, device=device)
    ended = xp.zeros((count,), dtype=xp.bool, device=device)
    written = xp.zeros((count, 0), dtype=xp.int32, device=device)
    log_probs = xp.zeros((count, 0), dtype=sum_dtype(state.h.dtype, xp), device=device)
    for step in range(rules.max_length):
        logits, state = scored(model, state, words)
        words, chances = choose(step, logits, rules.barred(step), rules.banned(written))
        written = xp.concat([written, xp.where(ended, null, words)[:, None]], axis=1)
        log_probs = xp.concat([log_probs, xp.where(ended, xp.zeros_like(chances), chances)[:, None]], axis=1)
        ended = ended | (words == rules.end)
        if bool(xp.all(ended)):
            break
    left = rules.max_length - written.shape[1]
    written = xp.concat([written, xp.full((count, left), rules.null, dtype=xp.int32, device=device)], axis=1)
    log_probs = xp.concat([log_probs, xp.zeros((count, left), dtype=log_probs.dtype, device=device)], axis=1)
    return check_written(Decoded(written[:, None, :], log_probs[:, None, :], xp.sum(log_probs, axis=1)[:, None]))
