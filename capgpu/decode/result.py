"""The result of all decoders."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from capgpu.backend import Array, array_namespace, to_numpy
from capgpu.errors import NonFiniteError
from capgpu.sequence import after_start
from capgpu.vocabulary import START

if TYPE_CHECKING:
    from capgpu.decode.word_model import WordModel

__all__ = ["DecodeResult", "best_first", "check_finite_scores", "with_attention"]


class DecodeResult(NamedTuple):
    """K captions of each of N pictures, the best first.

    Log-probabilities and scores have the model's dtype; float32 for models in half precision.

    Attributes
    ----------
    ids : array of int32, shape (N, K, T)
        Words without START; NULL after END. T is `max_length`.
    log_probs : array, shape (N, K, T)
        The model's log-probability of each word, END included, in nats; 0 for NULL.
    scores : array, shape (N, K)
        The captions are ordered by score: the sum of the log-probabilities, divided by the length penalty of a beam
        search. -inf, with NULL for all words, if fewer than K captions exist.
    attention : array, shape (N, K, T, L), or None
        Weights of the L cells of a picture's grid, features (N, L, D), at each word: `with_attention` adds them. 0 for
        NULL.
    """

    ids: Array
    log_probs: Array
    scores: Array
    attention: Array | None = None


def check_finite_scores(result: DecodeResult) -> DecodeResult:
    """Return a result if the best caption of each picture has a finite score.

    Parameters
    ----------
    result : DecodeResult
        The result of a decoder.

    Returns
    -------
    DecodeResult
        The same object.

    Raises
    ------
    FloatingPointError
        If the score of a best caption is NaN or infinite.
    """
    xp = array_namespace(result.scores)
    invalid = int(xp.sum(xp.astype(~xp.isfinite(result.scores[:, 0]), xp.int64)))
    if invalid:
        raise NonFiniteError(
            f"scores: expected finite log-probabilities, got NaN or infinity for the captions of {invalid} of "
            f"{result.scores.shape[0]} pictures. The model's parameters are not finite, or far too large: load "
            "another file, or train again."
        )
    return result


def best_first(results: Sequence[DecodeResult]) -> DecodeResult:
    """Join results of the same pictures, and order the captions of each picture by their scores.

    Parameters
    ----------
    results : sequence of DecodeResult
        One or more, of the same N and T.

    Returns
    -------
    DecodeResult
        All their captions; those of equal scores in the order given.
    """
    if len(results) == 1:
        return results[0]
    xp = array_namespace(*(result.scores for result in results))
    scores = xp.concat([result.scores for result in results], axis=1)
    order = xp.argsort(-scores, axis=1, stable=True)
    rows = xp.arange(scores.shape[0], device=scores.device)[:, None] * scores.shape[1] + order

    def joined(parts: list[Array]) -> Array:
        array = xp.concat(parts, axis=1)
        flat = xp.reshape(array, (-1, *array.shape[2:]))
        return xp.reshape(xp.take(flat, xp.reshape(rows, (-1,)), axis=0), array.shape)

    maps = [result.attention for result in results if result.attention is not None]
    return DecodeResult(
        joined([result.ids for result in results]),
        joined([result.log_probs for result in results]),
        xp.take_along_axis(scores, order, axis=1),
        joined(maps) if maps else None,
    )


def with_attention(model: WordModel, features: Array, result: DecodeResult) -> DecodeResult:
    """Add the weights that an attention model gave to the cells of the pictures, by reading the captions again.

    Parameters
    ----------
    model : WordModel
        A model with ``cell_type="attention"``.
    features : array, shape (N, L, D)
        The features that were decoded.
    result : DecodeResult
        From any decoder.

    Returns
    -------
    DecodeResult
        The same captions, with `attention`.

    Raises
    ------
    ValueError
        For a model of another cell.
    """
    xp, ids = array_namespace(features), to_numpy(result.ids)
    start = model.word_to_idx[START]
    maps = [model.attention(features, after_start(ids[:, k, :], start)) for k in range(ids.shape[1])]
    return result._replace(attention=xp.stack(maps, axis=1))
