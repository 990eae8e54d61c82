"""The embedded set of real pictures: Noto emoji, each captioned with its Unicode CLDR short name.

A picture is stored as its features: the 1,280 pooled outputs of EfficientNet-Lite0, projected onto 256
principal components of the training part. Four parts:

train
    What a captioner may see.
val, test
    Held-out variants of emoji that train holds in others: "woman firefighter" is known in four skin tones,
    the fifth is asked for.
unseen
    Whole emoji that train does not hold in any tone, gender, direction or hair.

Credits and licences of pictures, names and network weights are in the NOTICE file.
``tools/build_emoji.py`` in the source repository makes the files.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capgpu.vocabulary import detokenize, tokenize

if TYPE_CHECKING:
    from capgpu.vision import PictureEncoder, Projection

__all__ = ["PARTS", "base_name", "encoder", "exact_and_base", "load", "project", "thumbnail"]

PARTS = ("train", "val", "test", "unseen")

# How tools/build_emoji.py lays the sprite out: row by row, the parts one after the other.
SPRITE_PARTS = ("val", "test", "unseen")
SPRITE_COLUMNS = 32
THUMBNAIL_SIZE = 64

_FILES = resources.files("capgpu.data")


def _read_npz(name: str) -> dict[str, npt.NDArray[Any]]:
    with (_FILES / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def load() -> dict[str, Any]:
    """Read the set into the data dictionary of the cs231n exercises.

    Returns
    -------
    dict
        For each part P of `PARTS`, with N pictures of one caption each:

        ``P_captions`` (N, T) int32
            ``<START>``, words, ``<END>``, padded with ``<NULL>``.
        ``P_image_idxs`` (N,) int64
            0 to N - 1: the row of ``P_features`` that each caption describes.
        ``P_features`` (N, 256) float32
            Features, mean square about one.
        ``P_names`` list of N str
            The short names as CLDR writes them.
        ``P_base`` list of N str
            Their base names, see `base_name`.
        ``P_characters`` list of N str
            The emoji themselves, without variation selectors.

        Also ``idx_to_word`` (list of str) and ``word_to_idx`` (dict), made from the training captions only.
        Everything is fresh at each call and may be modified.
    """
    stored = _read_npz("emoji.npz")
    words: list[str] = stored["idx_to_word"].tolist()
    data: dict[str, Any] = {"idx_to_word": words, "word_to_idx": {word: i for i, word in enumerate(words)}}
    for part in PARTS:
        names: list[str] = stored[f"{part}_names"].tolist()
        data[f"{part}_captions"] = stored[f"{part}_captions"]
        data[f"{part}_image_idxs"] = np.arange(len(names))
        data[f"{part}_features"] = stored[f"{part}_features"].astype(np.float32)
        data[f"{part}_names"] = names
        data[f"{part}_base"] = [base_name(name) for name in names]
        data[f"{part}_characters"] = stored[f"{part}_characters"].tolist()
    return data


def base_name(caption: str) -> str:
    """Say what a caption shows, without the variant.

    CLDR puts all that tells variants apart (skin tones, hair, direction, the members of a couple or family)
    behind a colon: the base name is what stands before the first one. Gender is part of it, as in "woman
    firefighter".

    Parameters
    ----------
    caption : str
        A short name, or a caption that a model wrote.

    Returns
    -------
    str
        ``"Woman firefighter: medium skin tone"`` gives ``"woman firefighter"``.
    """
    words = tokenize(caption)
    return detokenize(words[: words.index(":")] if ":" in words else words)


def exact_and_base(captions: Sequence[str], names: Sequence[str]) -> tuple[float, float]:
    """Score captions against true names.

    Parameters
    ----------
    captions : sequence of N str
        What a model wrote, see `capgpu.vocabulary.caption_text`.
    names : sequence of N str
        True names; case does not count.

    Returns
    -------
    exact, base : float
        The parts, from 0 to 1, of captions that are the whole name, and that have the right base name.

    Raises
    ------
    ValueError
        If there are no captions, or not as many as names.
    """
    if not captions or len(captions) != len(names):
        raise ValueError(f"scores need one caption for each name, got {len(captions)} and {len(names)}")
    pairs = list(zip(captions, names, strict=True))
    exact = sum(tokenize(caption) == tokenize(name) for caption, name in pairs)
    base = sum(base_name(caption) == base_name(name) for caption, name in pairs)
    return exact / len(pairs), base / len(pairs)


def encoder() -> PictureEncoder:
    """Open the encoder that gives pictures features of the kind that `load` gives.

    Returns
    -------
    PictureEncoder
        EfficientNet-Lite0 and the stored projection; pictures are laid on white, and padded to a square.

    Raises
    ------
    MissingExtraError
        If a package of the extra ``vision`` is not installed.
    ValueError, OSError
        As `capgpu.vision.open_encoder`.
    """
    from capgpu.vision import open_encoder

    return open_encoder("efficientnet-lite0", fit="pad", projection=_projection())


def project(pooled: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Turn EfficientNet-Lite0's pooled outputs into features of the kind that `load` gives.

    Parameters
    ----------
    pooled : numpy.ndarray of float, shape (N, 1280)
        Outputs of the last convolution averaged over a picture of 224 x 224 pixels, whose values were scaled
        as (x - 127) / 128.

    Returns
    -------
    numpy.ndarray of float32, shape (N, 256)
        Features.

    Raises
    ------
    ValueError
        If the shape is another.
    """
    return _projection().apply(pooled)


def thumbnail(part: str, index: int) -> npt.NDArray[np.uint8]:
    """Cut one picture out of the sprite, for display.

    Parameters
    ----------
    part : {"val", "test", "unseen"}
        The training pictures are not in the sprite.
    index : int
        A value of the part's ``image_idxs``.

    Returns
    -------
    numpy.ndarray of uint8, shape (64, 64, 3)
        RGB on white.

    Raises
    ------
    ValueError
        If the part is not in the sprite, or has no such picture.
    """
    if part not in SPRITE_PARTS:
        raise ValueError(f"of the emoji only the splits {', '.join(SPRITE_PARTS)} have pictures to show, got {part!r}")
    counts = _part_sizes()
    if not 0 <= index < counts[part]:
        raise ValueError(f"the part {part} has the pictures 0 to {counts[part] - 1}, got {index}")
    place = index + sum(counts[earlier] for earlier in SPRITE_PARTS[: SPRITE_PARTS.index(part)])
    row, column = divmod(place, SPRITE_COLUMNS)
    top, left = row * THUMBNAIL_SIZE, column * THUMBNAIL_SIZE
    return _sprite()[top : top + THUMBNAIL_SIZE, left : left + THUMBNAIL_SIZE].copy()


@cache
def _projection() -> Projection:
    from capgpu.vision.projection import Projection

    return Projection(**_read_npz("emoji_pca.npz"))


@cache
def _part_sizes() -> dict[str, int]:
    stored = _read_npz("emoji.npz")
    return {part: len(stored[f"{part}_names"]) for part in PARTS}


@cache
def _sprite() -> npt.NDArray[np.uint8]:
    from PIL import Image

    with (_FILES / "emoji_sprite.png").open("rb") as file, Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))
