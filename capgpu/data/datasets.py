"""Data sets by name or folder, as the commands use them."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capgpu.checkpoint import CheckpointError
from capgpu.data.arrays import split_arrays, splits_of
from capgpu.data.cs231n_coco import coco_identity, has_pca_features, is_cs231n_coco, load_coco_data
from capgpu.data.pictures import thumbnail
from capgpu.data.prepared_dataset import is_prepared, load_prepared, read_manifest
from capgpu.errors import InvalidValueError
from capgpu.tokens import TOKENIZERS, interned
from capgpu.visible_text import short
from capgpu.vocabulary import UNK, caption_text, detokenize, tokenize

if TYPE_CHECKING:
    from capgpu.vision import PictureEncoder

__all__ = ["DATASETS", "Dataset", "open_dataset"]

#: Replaces <UNK> in true captions of data without texts. No model generates it.
_UNKNOWN_WORD = "<unknown>"
#: Longer side of a photograph for display, in pixels: of one twice as long as high, half fills a contact sheet's card.
_PHOTOGRAPH_SIZE = 384


@dataclass(frozen=True)
class Dataset:
    """A data set of captioned pictures, with what is needed to show and to evaluate it.

    Attributes
    ----------
    name : str
        The name on the command line.
    data : dict
        The course's data dictionary, see `capgpu.data.arrays`.
    notes : mapping of str to str
        Descriptions of splits, for display.
    base_name : callable or None
        Returns a caption without its variant; None for data sets without variants.
    thumbnail : callable or None
        ``thumbnail(split, image) -> numpy.ndarray`` of uint8, shape (height, width, 3): the picture, for display. It
        raises ValueError for a split without pictures.
    photographs : bool
        Whether the pictures are photographs, which may be cropped for display.
    tokenize : callable
        Splits a caption into words.
    encoder : callable or None
        Opens the encoder of the features; None if it is unknown.
    encoder_folder : pathlib.Path or None
        The folder of that encoder.
    identity : str or None
        Differs between data sets of different contents; None for constant data sets.
    """

    name: str
    data: dict[str, Any]
    notes: Mapping[str, str] = field(default_factory=dict)
    base_name: Callable[[str], str] | None = None
    thumbnail: Callable[[str, int], npt.NDArray[np.uint8]] | None = None
    photographs: bool = False
    tokenize: Callable[[str], list[str]] = tokenize
    encoder: Callable[[], PictureEncoder] | None = None
    encoder_folder: Path | None = None
    identity: str | None = None

    def title(self, split: str) -> str:
        """Return the name of a split with its description."""
        note = self.notes.get(split)
        return f"{split}: {note}" if note else split

    def features(self, split: str) -> npt.NDArray[Any]:
        """Return the features of a split's images, shape (N, D), or (N, L, D) of grids."""
        features: npt.NDArray[Any] = split_arrays(self.data, split)[1]
        return features

    def captioned_images(self, split: str) -> npt.NDArray[np.integer]:
        """Return the image of each caption of a split, shape (Nc,)."""
        images: npt.NDArray[np.integer] = split_arrays(self.data, split)[2]
        return images

    def true_words(self, split: str) -> list[list[list[str]]]:
        """Return the true captions of each image of a split as the words that metrics compare.

        Words are those of ``<split>_texts`` (``<split>_names`` for emoji), which include words outside of the
        vocabulary. If the data contain token ids only, ``<unknown>`` replaces ``<UNK>``. In both cases a generated
        ``<UNK>`` never matches. The list of an image without captions is empty.
        """
        images = self.captioned_images(split)
        words: list[list[list[str]]] = [[] for _ in range(len(self.features(split)))]
        for image, caption in zip(images.tolist(), self._caption_words(split, range(len(images))), strict=True):
            words[image].append(caption)
        return words

    def truths(self, split: str) -> list[list[str]]:
        """Return the true captions of each image of a split as texts, in lower case and evenly spaced."""
        return [[detokenize(words) for words in captions] for captions in self.true_words(split)]

    def caption_texts(self, split: str, indices: npt.NDArray[np.integer]) -> list[str]:
        """Return the captions of a split at some indices, formatted as by `truths`; only these are tokenized."""
        return [detokenize(words) for words in self._caption_words(split, indices.tolist())]

    def _caption_words(self, split: str, indices: Sequence[int]) -> list[list[str]]:
        texts = self.data.get(f"{split}_texts", self.data.get(f"{split}_names"))
        if texts is None:
            known = [_UNKNOWN_WORD if word == UNK else word for word in self.data["idx_to_word"]]
            chosen = caption_text(split_arrays(self.data, split)[0][np.asarray(indices, np.intp)], known)
        else:
            chosen = [texts[index] for index in indices]
        return list(map(interned(self.tokenize), chosen))

    def image_ids(self, split: str) -> list[int | str]:
        """Return the ids of a split's images in their source, or else their indices, from 0."""
        ids = self.data.get(f"{split}_image_ids")
        return list(range(len(self.features(split)))) if ids is None else list(ids)


def _open_emoji(name: str = "emoji", *, grid: bool = False) -> Dataset:
    from capgpu.data import emoji

    notes = {
        "val": "held-out variants of emoji that training has seen in others",
        "test": "held-out variants of emoji that training has seen in others",
        "unseen": "whole emoji that training has seen in no variant: their names can only be guessed",
    }
    return Dataset(
        name,
        emoji.load(grid=grid),
        notes,
        emoji.base_name,
        emoji.thumbnail,
        encoder=partial(emoji.encoder, grid=grid),
    )


def _open_prepared(folder: Path) -> Dataset:
    manifest = read_manifest(folder)
    if manifest.tokens not in TOKENIZERS:
        raise CheckpointError(
            f"{folder}: expected data prepared with the tokenizer {' or '.join(TOKENIZERS)}, got "
            f"{short(manifest.tokens)}. Prepare the data again."
        )
    data = load_prepared(folder)

    def load_encoder() -> PictureEncoder:
        from capgpu.vision import PictureEncoder

        return PictureEncoder.load(folder)

    return Dataset(
        str(folder),
        data,
        thumbnail=partial(_thumbnail_of_file, data)
        if any(f"{split}_files" in data for split in splits_of(data))
        else None,
        photographs=True,
        tokenize=TOKENIZERS[manifest.tokens],
        encoder=load_encoder if manifest.encoder else None,
        encoder_folder=folder if manifest.encoder else None,
        identity=manifest.identity,
    )


def _open_cs231n_coco(folder: Path) -> Dataset:
    data = load_coco_data(folder, pca_features=has_pca_features(folder))
    return Dataset(str(folder), data, identity=coco_identity(data))


def _thumbnail_of_file(data: Mapping[str, Any], split: str, image: int) -> npt.NDArray[np.uint8]:
    files = data.get(f"{split}_files")
    if files is None:
        raise InvalidValueError(f"{split}: expected a split with picture files to draw, got features only.")
    return thumbnail(files[image], _PHOTOGRAPH_SIZE, fit="inside")


#: The functions that open the named data sets.
DATASETS: dict[str, Callable[[], Dataset]] = {
    "emoji": _open_emoji,
    "emoji-grid": partial(_open_emoji, "emoji-grid", grid=True),
}


def open_dataset(name_or_folder: str | os.PathLike[str]) -> Dataset:
    """Open a data set.

    Parameters
    ----------
    name_or_folder : str or path
        A name in `DATASETS`, a folder written by ``capgpu prepare``, or that of the cs231n course's COCO set.

    Returns
    -------
    Dataset
        A new object; the arrays of a folder are memory-mapped.

    Raises
    ------
    ValueError
        For an unknown name, or a folder that does not exist.
    CheckpointError
        For a prepared folder that is incomplete, damaged or modified.
    FileNotFoundError, DataFileError
        As `capgpu.data.cs231n_coco.load_coco_data`.
    """
    name = os.fspath(name_or_folder)
    if name in DATASETS:
        return DATASETS[name]()
    if not Path(name).exists():
        raise InvalidValueError(
            f"data set: expected {', '.join(DATASETS)} or an existing folder, got {name!r}. capgpu prepare makes a "
            "folder to train on."
        )
    folder = Path(name)
    if is_cs231n_coco(folder) and not is_prepared(folder):
        return _open_cs231n_coco(folder)
    return _open_prepared(folder)
