"""From features to sentences: a model's captions as text, with their probabilities."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from capgpu.backend import asarray, to_numpy
from capgpu.checks import check_count
from capgpu.decode import Decoding
from capgpu.vocabulary import caption_text

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN

__all__ = ["Caption", "write_captions"]


class Caption(NamedTuple):
    """What a model wrote for a picture.

    Attributes
    ----------
    text : str
        For people: no special words, punctuation attached.
    probability : float
        What the model gives it, its end included.
    """

    text: str
    probability: float


def write_captions(
    model: CaptioningRNN,
    features: npt.NDArray[Any],
    decoding: Decoding | None = None,
    *,
    batch_size: int = 256,
) -> list[Caption]:
    """Write a caption for each feature vector.

    Parameters
    ----------
    model : CaptioningRNN
        Its vocabulary needs ``<START>`` and ``<END>``.
    features : numpy.ndarray, shape (N, D)
        On the host; brought to the current backend batch by batch.
    decoding : Decoding, optional
        How; greedily if not given.
    batch_size : int
        Hypotheses followed at a time: a beam search takes fewer pictures.

    Returns
    -------
    list of Caption
        N captions.

    Raises
    ------
    TypeError, ValueError
        For features that do not fit the model, `batch_size` below 1, or settings that cannot work.
    """
    check_count("batch_size", batch_size, 1)
    decoding = Decoding() if decoding is None else decoding
    pictures = max(batch_size // max(decoding.beam, 1), 1)
    captions: list[Caption] = []
    for start in range(0, len(features), pictures):
        decoded = decoding(model, asarray(features[start : start + pictures]), start)
        ids = to_numpy(decoded.ids)[:, 0].astype(np.int64)
        chances = to_numpy(decoded.log_probs)[:, 0].sum(axis=1, dtype=np.float64)
        texts = caption_text(ids, model.idx_to_word)
        captions.extend(Caption(text, math.exp(chance)) for text, chance in zip(texts, chances, strict=True))
    return captions
