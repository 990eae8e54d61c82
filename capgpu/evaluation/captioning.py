"""From features to sentences: a model's captions as text."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capgpu.backend import asarray, to_numpy
from capgpu.vocabulary import caption_text

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN

__all__ = ["write_captions"]


def write_captions(
    model: CaptioningRNN, features: npt.NDArray[Any], *, max_length: int = 30, batch_size: int = 256
) -> list[str]:
    """Write a caption for each feature vector: greedily, as text for people.

    Parameters
    ----------
    model : CaptioningRNN
        Its vocabulary needs ``<START>`` and ``<END>``.
    features : numpy.ndarray, shape (N, D)
        On the host; brought to the current backend batch by batch.
    max_length : int
        The longest caption, in words.
    batch_size : int
        Pictures captioned at a time.

    Returns
    -------
    list of str
        N captions.

    Raises
    ------
    ValueError
        For features that do not fit the model, or `batch_size` below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}; wanted at least 1.")
    captions: list[str] = []
    for start in range(0, len(features), batch_size):
        ids = model.sample(asarray(features[start : start + batch_size]), max_length, stop_at_end=True)
        captions.extend(caption_text(to_numpy(ids).astype(np.int64), model.idx_to_word))
    return captions
