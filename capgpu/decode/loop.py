"""The decoding loop of one caption per picture, shared by greedy decoding and sampling, and its step."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capgpu.backend import Array, array_namespace
from capgpu.decode.result import DecodeResult, check_finite_scores
from capgpu.decode.token_masks import TokenMasks
from capgpu.dtypes import sum_dtype, widened

if TYPE_CHECKING:
    from capgpu.decode.word_model import WordModel

__all__ = ["ChooseWords", "decode_single", "next_logits", "picture_count"]

#: (step, logits, mask, repeated) -> id and log-probability of the next word of each row; masks as in `TokenMasks`.
ChooseWords = Callable[[int, Array, Array, Array | None], tuple[Array, Array]]


def picture_count(features: Array) -> int:
    """Return the number of pictures of features; 1 for an array without axes, which a model refuses."""
    return features.shape[0] if features.ndim else 1


def next_logits(model: WordModel, state: Any, words: Array, parents: Array | None = None) -> tuple[Array, Any]:
    """Compute the logits of the next words, as `CaptioningRNN.step`; those of half precision in float32.

    Sums over a vocabulary or a caption, and random numbers, are too coarse in 16 bits.
    """
    logits, state = model.step(state, words, parents)
    return widened(logits), state


def decode_single(model: WordModel, features: Array, masks: TokenMasks, choose: ChooseWords) -> DecodeResult:
    """Decode one caption per picture until all have ended.

    Parameters
    ----------
    model : WordModel
        The model.
    features : array, shape (N, D), or (N, L, D) for a model with attention
        Image features.
    masks : TokenMasks
        The words that may not be chosen.
    choose : callable
        Chooses the next words.

    Returns
    -------
    DecodeResult
        One caption per picture (K = 1).

    Raises
    ------
    FloatingPointError
        For parameters that are not finite.
    """
    xp, device = array_namespace(features=features), features.device
    count = picture_count(features)
    state = model.begin(features, count * masks.max_length)
    words = xp.full((count,), masks.start, dtype=xp.int32, device=device)
    null = xp.full((count,), masks.null, dtype=xp.int32, device=device)
    finished = xp.zeros((count,), dtype=xp.bool, device=device)
    ids = xp.zeros((count, 0), dtype=xp.int32, device=device)
    log_probs = xp.zeros((count, 0), dtype=sum_dtype(state.h.dtype, xp), device=device)
    for step in range(masks.max_length):
        logits, state = next_logits(model, state, words)
        words, word_log_probs = choose(step, logits, masks.step_mask(step), masks.repeated_words(ids))
        zeros = xp.zeros_like(word_log_probs)
        ids = xp.concat([ids, xp.where(finished, null, words)[:, None]], axis=1)
        log_probs = xp.concat([log_probs, xp.where(finished, zeros, word_log_probs)[:, None]], axis=1)
        finished = finished | (words == masks.end)
        if bool(xp.all(finished)):
            break
    padding = count, masks.max_length - ids.shape[1]
    ids = xp.concat([ids, xp.full(padding, masks.null, dtype=xp.int32, device=device)], axis=1)
    log_probs = xp.concat([log_probs, xp.zeros(padding, dtype=log_probs.dtype, device=device)], axis=1)
    return check_finite_scores(DecodeResult(ids[:, None, :], log_probs[:, None, :], xp.sum(log_probs, axis=1)[:, None]))
