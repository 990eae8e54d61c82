"""Whole passes in one call, which only fused kernels have: their oracle is the model, composed of the operations."""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.kernels import LossOptions

__all__ = ["caption_gradients", "greedy_captions"]


def caption_gradients(
    features: Array, captions: Any, null: int, params: dict[str, Array], options: LossOptions
) -> tuple[Array, dict[str, Array]] | None:
    """Compute a captioner's loss and gradients at once, where that pays.

    Parameters
    ----------
    features : array, shape (N, D)
        Image features, in the dtype of the parameters.
    captions : numpy.ndarray of int, shape (N, T + 1)
        Word ids on the host.
    null : int
        Id of the word that is not counted as a target.
    params : dict of str to array
        The parameters of `capgpu.model.CaptioningRNN`, in their order: W_embed, W_proj, b_proj, Wx, Wh, b, W_vocab,
        b_vocab. With tied weights, W_vocab is a transposed view of W_embed.
    options : LossOptions
        Dropout, label smoothing and tied weights.

    Returns
    -------
    loss : array, shape ()
        As `capgpu.model.CaptioningRNN.loss` defines it.
    grads : dict of str to array
        Gradient of each parameter; with tied weights without W_vocab.

    Notes
    -----
    None stands for "compose it": always here; in a fused kernel for options that it does not have, and where the batch
    is large, or not sound (an id out of range, a feature that is not finite, no word at all), so that the composition
    finds and names what is wrong.
    """
    return None


def greedy_captions(
    features: Array, max_length: int, start: int, end: int, null: int, params: dict[str, Array]
) -> Array | None:
    """Write captions greedily, all words in one call.

    Parameters
    ----------
    features : array, shape (N, D)
        Image features, in the dtype of the parameters.
    max_length : int
        Words to write.
    start : int
        Id of the word to begin from.
    end : int
        Id of the word after which a caption is filled with `null`; -1 to write on.
    null : int
        Id to fill with.
    params : dict of str to array
        As for `caption_gradients`.

    Returns
    -------
    array of int32, shape (N, max_length)
        The words; of equal scores the first counts.

    Notes
    -----
    None stands for "compose it", of `decode_step`: always here.
    """
    return None
