"""Sampling: random words from the model's distribution, at a temperature, truncated by top-k and top-p."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING

from capgpu.backend import Array, array_namespace
from capgpu.decode.loop import decode_single, picture_count
from capgpu.decode.result import DecodeResult
from capgpu.decode.token_masks import SUPPRESS_UNK, TokenMasks
from capgpu.errors import InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.kernels.reference.top_k import draw_columns, leave_out, log_softmax, tempered_weights
from capgpu.random import fold_key, uniform
from capgpu.validation import check_count, check_integer, check_positive
from capgpu.visible_text import short

if TYPE_CHECKING:
    from capgpu.decode.word_model import WordModel

__all__ = ["sample"]

#: Larger indices would overflow with the rows of a batch, in 64 bits.
_MOST_PICTURES = 2**62


def sample(
    model: WordModel,
    features: Array,
    *,
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    seed: int | None = None,
    first: int = 0,
    rows: Array | None = None,
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
    rows : array of int, shape (N,), optional
        Index of each picture, where they are not consecutive: counted from `first`. In the library of `features`.

    Returns
    -------
    DecodeResult
        One caption per picture (K = 1). Log-probabilities are the model's, before temperature and truncation.

    Raises
    ------
    TypeError, ValueError
        As `capgpu.decode.greedy`; and for a temperature that is not positive, `top_k` below 1, `top_p` outside of
        ``(0, 1]``, `first` below 0, or a seed that is no integer.
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
    if first >= _MOST_PICTURES:
        raise InvalidValueError(f"first: expected an index below 2 ** 62, got {short(first)}.")
    check_integer("seed", 0 if seed is None else seed)
    key = secrets.randbits(64) if seed is None else seed
    if rows is None:
        rows = array_namespace(features=features).arange(picture_count(features), device=features.device)
    positions = rows + first
    masks = TokenMasks(model, max_length, min_length, no_repeat_ngram, suppress_unk)

    def choose(step: int, logits: Array, mask: Array, repeated: Array | None) -> tuple[Array, Array]:
        numbers = uniform(fold_key(key, step), positions, logits)
        if top_k is None and top_p is None:
            log_probs, words = kernels_for(logits).draw_words(
                logits, numbers, _bounded(temperature, logits), mask, repeated
            )
            return words, log_probs
        xp = array_namespace(logits)
        log_probs = log_softmax(logits)
        allowed = leave_out(log_probs, mask, repeated)
        order = xp.argsort(-allowed, axis=1, stable=True)
        weights = tempered_weights(xp.take_along_axis(allowed, order, axis=1), _bounded(temperature, logits))
        columns = draw_columns(_truncate(weights, top_k, top_p), numbers)[:, None]
        words = xp.take_along_axis(order, columns, axis=1)
        return xp.astype(words[:, 0], xp.int32), xp.take_along_axis(log_probs, words, axis=1)[:, 0]

    return decode_single(model, features, masks, choose)


def _bounded(temperature: float, logits: Array) -> float:
    """Return a temperature outside of whose bounds the distribution no longer changes, but a division would overflow.

    Below them the most probable word is drawn, above them all words alike.
    """
    limits = array_namespace(logits).finfo(logits.dtype)
    return min(max(float(temperature), float(limits.eps) / 4096), float(limits.max))


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
