"""From features or picture files to sentences: a model's captions as text, with their probabilities."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from capgpu.backend import asarray, to_numpy
from capgpu.checkpoint import CheckpointError
from capgpu.decode import GenerationConfig
from capgpu.validation import check_count
from capgpu.vocabulary import caption_text

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN
    from capgpu.vision import PictureEncoder

__all__ = ["Caption", "PictureCaptions", "caption_pictures", "write_captions"]


class Caption(NamedTuple):
    """A generated caption.

    Attributes
    ----------
    text : str
        Text without special tokens, punctuation attached to words.
    probability : float
        Probability of the caption under the model, its end included.
    """

    text: str
    probability: float


@dataclass(frozen=True)
class PictureCaptions:
    """Captions of picture files.

    Attributes
    ----------
    captions : dict of int to Caption
        The caption of each readable picture, by its index in the given paths.
    errors : dict of int to str
        Path and cause for each other picture.
    """

    captions: dict[int, Caption]
    errors: dict[int, str]

    def as_json(self, paths: Sequence[str | os.PathLike[str]]) -> list[dict[str, Any]]:
        """Return one object per path: ``picture``, and ``caption`` and ``probability``, or ``error``.

        Parameters
        ----------
        paths : sequence of N paths
            The paths given to `caption_pictures`.

        Returns
        -------
        list of N dict
            In the order of the paths.
        """
        return [
            {
                "picture": os.fspath(path),
                **({"error": self.errors[i]} if i in self.errors else _caption_as_json(self.captions[i])),
            }
            for i, path in enumerate(paths)
        ]


def _caption_as_json(caption: Caption) -> dict[str, Any]:
    return {"caption": caption.text, "probability": caption.probability}


def write_captions(
    model: CaptioningRNN,
    features: npt.NDArray[Any],
    config: GenerationConfig | None = None,
    *,
    batch_size: int = 256,
) -> list[Caption]:
    """Generate a caption for each feature vector.

    Parameters
    ----------
    model : CaptioningRNN
        A model whose vocabulary contains ``<START>`` and ``<END>``.
    features : numpy.ndarray, shape (N, D)
        Features on the host; moved to the current backend batch by batch.
    config : GenerationConfig, optional
        Settings of the decoder; greedy by default.
    batch_size : int
        Hypotheses decoded at a time: a beam search takes fewer pictures.

    Returns
    -------
    list of Caption
        N captions.

    Raises
    ------
    TypeError, ValueError
        For features that do not fit the model, `batch_size` below 1, or settings out of range.
    """
    check_count("batch_size", batch_size, 1)
    config = GenerationConfig() if config is None else config
    pictures = max(batch_size // max(config.beam, 1), 1)
    captions: list[Caption] = []
    for start in range(0, len(features), pictures):
        result = config(model, asarray(features[start : start + pictures]), start)
        ids = to_numpy(result.ids)[:, 0].astype(np.int64)
        log_probs = to_numpy(result.log_probs)[:, 0].sum(axis=1, dtype=np.float64)
        texts = caption_text(ids, model.idx_to_word)
        captions.extend(Caption(text, math.exp(log_prob)) for text, log_prob in zip(texts, log_probs, strict=True))
    return captions


def caption_pictures(
    model: CaptioningRNN,
    encoder: PictureEncoder,
    paths: Sequence[str | os.PathLike[str]],
    config: GenerationConfig | None = None,
) -> PictureCaptions:
    """Caption picture files.

    Parameters
    ----------
    model : CaptioningRNN
        The model.
    encoder : PictureEncoder
        The encoder of the features that the model was trained on.
    paths : sequence of N paths
        The pictures.
    config : GenerationConfig, optional
        Settings of the decoder; greedy by default.

    Returns
    -------
    PictureCaptions
        Captions, and errors of files that cannot be read.

    Raises
    ------
    CheckpointError
        If the encoder's features do not have the length that the model expects.
    TypeError, ValueError
        As `write_captions`.
    """
    if encoder.dim != model.config["input_dim"]:
        raise CheckpointError(
            f"encoder: expected features of length {model.config['input_dim']}, as the model's, got {encoder.dim}: the "
            "run is inconsistent. Train again."
        )
    encoded = encoder.encode(paths)
    captions = write_captions(model, encoded.features, config)
    return PictureCaptions(dict(zip(encoded.kept, captions, strict=True)), dict(encoded.broken))
