"""Sampling: random words from the model's distribution, at a temperature, truncated by top-k and top-p."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from capgpu.backend import Array, array_namespace
from capgpu.decode.loop import decode_single
from capgpu.decode.result import DecodeResult
from capgpu.decode.token_masks import SUPPRESS_UNK, TokenMasks
from capgpu.errors import InvalidValueError
from capgpu.kernels.reference.top_k import leave_out, log_softmax
from capgpu.random import fold_key, uniform
from capgpu.validation import check_count, check_positive

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN

__all__ = ["sample"]


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
    suppress_unk: bool = SUPPRESS_UNK,
) -> DecodeResult:
    """Draw each word at random from the model's distribution.

    Parameters
    ----------
    model, features, max_length, min_length, no_repeat_ngram, suppress_unk
        As for `capgpu.decode.greedy`.
    temperature : float
        Divisor of the logits: below 1 probable words are drawn more often, above 1 less often.
    top_k : int, optional
        Draw from the `top_k` most probable words only.
    top_p : float, optional
        Draw from the smallest set of most probable words with at least this probability in total (nucleus sampling:
        Holtzman et al. 2020, "The Curious Case of Neural Text Degeneration"). Applied after `top_k`.
    seed : int, optional
        Seed of the random numbers, which are the same on every backend; by default from the system's entropy.
    first : int
        Index of the first picture in the data set of which `features` is a batch. The random numbers of a picture
        depend only on its index and the seed, so that captions do not depend on the batch size.

    Returns
    -------
    DecodeResult
        One caption per picture (K = 1). Log-probabilities are the model's, before temperature and truncation.

    Raises
    ------
    TypeError, ValueError
        As `capgpu.decode.greedy`; and for a temperature that is not positive, `top_k` below 1, `top_p` outside of
        ``(0, 1]``, or `first` below 0.
    FloatingPointError
        As `capgpu.decode.greedy`.
    """
    check_positive("temperature", temperature)
    if top_k is not None:
        check_count("top_k", top_k, 1)
    if top_p is not None:
        check_positive("top_p", top_p)
        if top_p > 1:
            raise InvalidValueError(f"top_p: expected a probability in (0, 1], got {top_p!r}.")
    check_count("first", first, 0)
    key = secrets.randbits(64) if seed is None else seed
    masks = TokenMasks(model, max_length, min_length, no_repeat_ngram, suppress_unk)

    def choose(step: int, logits: Array, mask: Array, repeated: Array | None) -> tuple[Array, Array]:
        xp = array_namespace(logits)
        log_probs = log_softmax(logits)
        allowed = leave_out(log_probs, mask, repeated)
        order = None
        if top_k is not None or top_p is not None:
            order = xp.argsort(-allowed, axis=1, stable=True)
            allowed = xp.take_along_axis(allowed, order, axis=1)
        weights = _weights(allowed, temperature)
        if order is not None:
            weights = _truncate(weights, top_k, top_p)
        words = _draw(weights, uniform(fold_key(key, step), first, weights.shape[0], weights))[:, None]
        if order is not None:
            words = xp.take_along_axis(order, words, axis=1)
        return xp.astype(words[:, 0], xp.int32), xp.take_along_axis(log_probs, words, axis=1)[:, 0]

    return decode_single(model, features, masks, choose)


def _weights(log_probs: Array, temperature: float) -> Array:
    """Compute unnormalized probabilities at a temperature from `log_probs` (M, V); the largest of each row is 1."""
    xp = array_namespace(log_probs)
    limits = xp.finfo(log_probs.dtype)
    # outside of these bounds the distribution no longer changes (argmax below, uniform above), but the division
    # would overflow
    temperature = min(max(float(temperature), float(limits.eps) / 4096), float(limits.max))
    return xp.exp((log_probs - xp.max(log_probs, axis=1, keepdims=True)) / temperature)


def _truncate(weights: Array, top_k: int | None, top_p: float | None) -> Array:
    """Apply top-k / top-p truncation: set the weights of excluded words to 0; `weights` (M, V) are decreasing."""
    xp = array_namespace(weights)
    zeros = xp.zeros_like(weights)
    if top_k is not None:
        ranks = xp.arange(weights.shape[1], device=weights.device)
        weights = xp.where(ranks[None, :] < top_k, weights, zeros)
    if top_p is not None:
        sums = xp.cumulative_sum(weights, axis=1)
        # keep a word if the sum of the words before it is below top_p
        weights = xp.where(sums - weights < top_p * sums[:, -1:], weights, zeros)
    return weights


def _draw(weights: Array, numbers: Array) -> Array:
    """Draw a column of each row with probability proportional to its weight, by inverting the cumulative sum."""
    xp = array_namespace(weights, numbers)
    sums = xp.where(weights > 0, xp.cumulative_sum(weights, axis=1), xp.zeros_like(weights))
    # a number below 1 times the largest sum is below that sum: a column is always found
    reached = sums > numbers[:, None] * xp.max(sums, axis=1, keepdims=True)
    return xp.argmax(xp.astype(reached, xp.int8), axis=1)
