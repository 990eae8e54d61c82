"""The data sets that the command knows by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from capgpu.data.arrays import split_arrays
from capgpu.vocabulary import caption_text, detokenize, tokenize

__all__ = ["DATASETS", "Dataset", "open_dataset"]


@dataclass(frozen=True)
class Dataset:
    """Captioned pictures, and how to show and judge them.

    Attributes
    ----------
    name : str
        The name on the command line.
    data : dict
        The course's data dictionary, see `capgpu.data.arrays`.
    notes : mapping of str to str
        What a split holds, in words, for those where it isn't plain.
    base_name : callable or None
        Tells what a caption shows without the variant.
    thumbnail : callable or None
        ``thumbnail(split, image) -> numpy.ndarray`` of uint8, shape (height, width, 3): the picture, for
        display. ValueError for a split without pictures.
    """

    name: str
    data: dict[str, Any]
    notes: Mapping[str, str] = field(default_factory=dict)
    base_name: Callable[[str], str] | None = None
    thumbnail: Callable[[str, int], npt.NDArray[np.uint8]] | None = None

    def features(self, split: str) -> npt.NDArray[Any]:
        """Return the features of a split's images, shape (N, D)."""
        features: npt.NDArray[Any] = split_arrays(self.data, split)[1]
        return features

    def truths(self, split: str) -> list[list[str]]:
        """Return the true captions of each image of a split, in lower case, words set evenly.

        ``<split>_names`` is read where the data have it: unlike the token ids it holds words that the
        vocabulary lacks, so that ``<UNK>`` cannot count as right.
        """
        captions, features, image_idxs = split_arrays(self.data, split)
        texts = self.data.get(f"{split}_names")
        if texts is None:
            texts = caption_text(captions, self.data["idx_to_word"])
        truths: list[list[str]] = [[] for _ in range(len(features))]
        for image, text in zip(image_idxs.tolist(), texts, strict=True):
            truths[image].append(detokenize(tokenize(text)))
        return truths


def _open_emoji() -> Dataset:
    from capgpu.data import emoji

    notes = {
        "val": "held-out variants of emoji that training has seen in others",
        "test": "held-out variants of emoji that training has seen in others",
        "unseen": "whole emoji that training has seen in no variant: their names can only be guessed",
    }
    return Dataset("emoji", emoji.load(), notes, emoji.base_name, emoji.thumbnail)


#: How to open each data set.
DATASETS: dict[str, Callable[[], Dataset]] = {"emoji": _open_emoji}


def open_dataset(name: str) -> Dataset:
    """Load a data set.

    Parameters
    ----------
    name : str
        One of `DATASETS`.

    Returns
    -------
    Dataset
        Freshly loaded.

    Raises
    ------
    ValueError
        For an unknown name.
    """
    if name not in DATASETS:
        raise ValueError(f"unknown data set {name!r}; known: {', '.join(DATASETS)}.")
    return DATASETS[name]()
