"""Greedy decoding: the most probable word at each step."""

from __future__ import annotations

from typing import TYPE_CHECKING

from capgpu.backend import Array
from capgpu.decode.loop import decode_single
from capgpu.decode.result import DecodeResult
from capgpu.decode.token_masks import SUPPRESS_UNK, TokenMasks
from capgpu.kernels import kernels_for

if TYPE_CHECKING:
    from capgpu.decode.word_model import WordModel

__all__ = ["greedy"]


def greedy(
    model: WordModel,
    features: Array,
    *,
    max_length: int = 30,
    min_length: int = 0,
    no_repeat_ngram: int = 0,
    suppress_unk: bool = SUPPRESS_UNK,
) -> DecodeResult:
    """Decode the most probable word at each step; of equally probable words the one with the smallest id.

    Parameters
    ----------
    model : WordModel
        A model whose vocabulary contains ``<START>`` and ``<END>``.
    features : array, shape (N, D), or (N, L, D) for a model with attention
        Image features, in the array library of the parameters.
    max_length, min_length : int
        Maximum number of words, END included; minimum number of words, END not included.
    no_repeat_ngram : int
        No n-gram of this length occurs twice in a caption; 0 disables the rule.
    suppress_unk : bool
        Whether to exclude ``<UNK>``, which says nothing about a picture.

    Returns
    -------
    DecodeResult
        One caption per picture (K = 1).

    Raises
    ------
    TypeError
        For settings that are not integers, or arrays of different libraries.
    ValueError
        For settings out of range or that contradict each other, a vocabulary without a special token, or features of
        another shape.
    FloatingPointError
        For parameters that are not finite.

    Notes
    -----
    The words equal those of ``model.sample(features, max_length, stop_at_end=True)``, except that NULL and START are
    never chosen, and UNK is not unless ``suppress_unk=False``.
    """
    masks = TokenMasks(model, max_length, min_length, no_repeat_ngram, suppress_unk)

    def choose(step: int, logits: Array, mask: Array, repeated: Array | None) -> tuple[Array, Array]:
        log_probs, words = kernels_for(logits).top_words(logits, 1, mask, repeated)
        return words[:, 0], log_probs[:, 0]

    return decode_single(model, features, masks, choose)
