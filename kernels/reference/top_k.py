"""The oracle of the choice among next words: the most probable ones, or random ones."""

from __future__ import annotations

import math

from capgpu.backend import Array, array_namespace

__all__ = ["draw_columns", "draw_words", "leave_out", "log_softmax", "tempered_weights", "top_words"]


def log_softmax(logits: Array) -> Array:
    """Return the log-probabilities of rows of scores, shape (M, V)."""
    xp = array_namespace(logits)
    shifted = logits - xp.max(logits, axis=1, keepdims=True)
    return shifted - xp.log(xp.sum(xp.exp(shifted), axis=1, keepdims=True))


def leave_out(scores: Array, barred: Array, banned: Array | None = None) -> Array:
    """Return scores with -inf for words that must not be chosen; see `top_words`."""
    xp = array_namespace(scores, barred)
    never = xp.full(scores.shape, -math.inf, dtype=scores.dtype, device=scores.device)
    remaining = xp.where(barred[None, :], never, scores)
    if banned is not None:
        classes = xp.arange(scores.shape[1], dtype=banned.dtype, device=scores.device)
        for column in range(banned.shape[1]):
            remaining = xp.where(classes[None, :] == banned[:, column : column + 1], never, remaining)
    return remaining


def top_words(logits: Array, count: int, barred: Array, banned: Array | None = None) -> tuple[Array, Array]:
    """Find the most probable words of rows of scores among those that may be chosen.

    Parameters
    ----------
    logits : array, shape (M, V)
        Scores.
    count : int
        Words wanted of each row, at most V.
    barred : array of bool, shape (V,)
        Words that no row may choose.
    banned : array of int, shape (M, B), optional
        Words that single rows may not choose, in any order, repeated or not.

    Returns
    -------
    log_probs : array, shape (M, count)
        ``log softmax(logits)`` of the best words, falling; barred and banned words do count in the softmax. -inf
        where no word is left.
    words : array of int32, shape (M, count)
        Their ids; of equal scores the least comes first. 0 where no word is left.
    """
    xp = array_namespace(logits, barred)
    greatest = xp.max(logits, axis=1)
    normaliser = xp.log(xp.sum(xp.exp(logits - greatest[:, None]), axis=1))
    # chosen by score: two log-probabilities may be rounded to one
    remaining = leave_out(logits, barred, banned)
    never = xp.full(remaining.shape, -math.inf, dtype=remaining.dtype, device=remaining.device)
    classes = xp.arange(remaining.shape[1], dtype=xp.int64, device=remaining.device)
    log_probs, words = [], []
    for _ in range(count):
        best, score = xp.argmax(remaining, axis=1), xp.max(remaining, axis=1)
        log_probs.append(score - greatest - normaliser)
        words.append(xp.astype(xp.where(score > -math.inf, best, xp.zeros_like(best)), xp.int32))
        remaining = xp.where(classes[None, :] == best[:, None], never, remaining)
    return xp.stack(log_probs, axis=1), xp.stack(words, axis=1)


def draw_words(
    logits: Array, numbers: Array, temperature: float, barred: Array, banned: Array | None = None
) -> tuple[Array, Array]:
    """Draw a word of each row of scores, among those that may be chosen.

    Parameters
    ----------
    logits : array, shape (M, V)
        Scores.
    numbers : array, shape (M,)
        Uniform random numbers in ``[0, 1)``, in the dtype of `logits`.
    temperature : float
        Divisor of the scores, above 0.
    barred, banned
        As for `top_words`.

    Returns
    -------
    log_probs : array, shape (M,)
        ``log softmax(logits)`` of the drawn words, whatever the temperature; barred and banned words do count in it.
    words : array of int32, shape (M,)
        Their ids, by inverting the cumulative sum of the probabilities. 0 where no word is left.
    """
    xp = array_namespace(logits, numbers, barred)
    log_probs = log_softmax(logits)
    words = draw_columns(tempered_weights(leave_out(log_probs, barred, banned), temperature), numbers)
    return xp.take_along_axis(log_probs, words[:, None], axis=1)[:, 0], xp.astype(words, xp.int32)


def tempered_weights(log_probs: Array, temperature: float) -> Array:
    """Return unnormalized probabilities at a temperature from `log_probs` (M, V); the largest of each row is 1."""
    xp = array_namespace(log_probs)
    return xp.exp((log_probs - xp.max(log_probs, axis=1, keepdims=True)) / temperature)


def draw_columns(weights: Array, numbers: Array) -> Array:
    """Draw a column of each row with probability proportional to its weight, by inverting the cumulative sum."""
    xp = array_namespace(weights, numbers)
    sums = xp.where(weights > 0, xp.cumulative_sum(weights, axis=1), xp.zeros_like(weights))
    # a number below 1 times the largest sum is below that sum: a column is always found
    reached = sums > numbers[:, None] * xp.max(sums, axis=1, keepdims=True)
    return xp.argmax(xp.astype(reached, xp.int8), axis=1)
