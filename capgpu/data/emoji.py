"""The embedded set of real pictures: Noto emoji, each captioned with its Unicode CLDR short name.

A picture is stored as its features: the 1,280 pooled outputs of EfficientNet-Lite0, projected onto 256 principal
components of the training part; and, for attention, the same outputs averaged over each of 4 x 4 cells, projected onto
128 principal components of the cells and rounded to 8 bits. There are four parts:

train
    Pictures for training.
val, test
    Held-out variants of emoji in train: for example, train contains "woman firefighter" in four skin tones, test the
    fifth.
unseen
    Emoji without any variant (tone, gender, direction or hair) in train.

Credits and licences of pictures, names and network weights are in the NOTICE file. The files are built by
``tools/build_emoji.py`` in the source repository.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidValueError
from capgpu.visible_text import short
from capgpu.vocabulary import detokenize, tokenize

if TYPE_CHECKING:
    from capgpu.vision import PictureEncoder, Projection

__all__ = ["PARTS", "base_name", "encoder", "exact_and_base", "load", "project", "thumbnail"]

PARTS = ("train", "val", "test", "unseen")

# Layout of the sprite by tools/build_emoji.py: row by row, the parts in this order.
SPRITE_PARTS = ("val", "test", "unseen")
SPRITE_COLUMNS = 32
THUMBNAIL_SIZE = 64
#: The grids have 4 x 4 cells.
GRID_SIDE = 4

_FILES = resources.files("capgpu.data")


def _read_npz(name: str) -> dict[str, npt.NDArray[Any]]:
    with (_FILES / name).open("rb") as file, np.load(file, allow_pickle=False) as arrays:
        return dict(arrays)


def load(*, grid: bool = False) -> dict[str, Any]:
    """Return the set as the data dictionary of the cs231n exercises.

    Parameters
    ----------
    grid : bool
        Whether the features of a picture are those of the 16 cells of a grid, row by row, for a model with attention.

    Returns
    -------
    dict
        For each part P of `PARTS`, with N pictures with one caption each:

        ``P_captions`` (N, T) int32
            ``<START>``, words, ``<END>``, padded with ``<NULL>``.
        ``P_image_idxs`` (N,) int64
            0 to N - 1: the row of ``P_features`` that each caption describes.
        ``P_features`` (N, 256), or (N, 16, 128) of a grid, float32
            Features, of mean square about one.
        ``P_names`` list of N str
            The short names as in CLDR.
        ``P_base`` list of N str
            The base names, see `base_name`.
        ``P_characters`` list of N str
            The emoji, without variation selectors.

        Also ``idx_to_word`` (list of str) and ``word_to_idx`` (dict), built from the training captions only. All
        objects are new at each call and may be modified.
    """
    stored = _read_npz("emoji.npz")
    grids = _read_npz("emoji_grid.npz") if grid else {}
    words: list[str] = stored["idx_to_word"].tolist()
    data: dict[str, Any] = {"idx_to_word": words, "word_to_idx": {word: i for i, word in enumerate(words)}}
    for part in PARTS:
        names: list[str] = stored[f"{part}_names"].tolist()
        data[f"{part}_captions"] = stored[f"{part}_captions"]
        data[f"{part}_image_idxs"] = np.arange(len(names))
        features = grids[f"{part}_steps"] * grids["step"] if grid else stored[f"{part}_features"].astype(np.float32)
        data[f"{part}_features"] = features
        data[f"{part}_names"] = names
        data[f"{part}_base"] = [base_name(name) for name in names]
        data[f"{part}_characters"] = stored[f"{part}_characters"].tolist()
    return data


def base_name(caption: str) -> str:
    """Return a caption without its variant.

    CLDR writes variants (skin tones, hair, direction, the members of a couple or family) after a colon: the base name
    is the part before the first one. Gender is part of it, as in "woman firefighter".

    Parameters
    ----------
    caption : str
        A short name, or a generated caption.

    Returns
    -------
    str
        ``"Woman firefighter: medium skin tone"`` gives ``"woman firefighter"``.
    """
    words = tokenize(caption)
    return detokenize(words[: words.index(":")] if ":" in words else words)


def exact_and_base(captions: Sequence[str], names: Sequence[str]) -> tuple[float, float]:
    """Compute the fractions of captions with the right name and the right base name.

    Parameters
    ----------
    captions : sequence of N str
        Generated captions, see `capgpu.vocabulary.caption_text`.
    names : sequence of N str
        True names; case is ignored.

    Returns
    -------
    exact, base : float
        Fractions of captions that equal the name, and that have the right base name.

    Raises
    ------
    ValueError
        If there are no captions, or their number differs from that of names.
    """
    if not captions or len(captions) != len(names):
        raise InvalidValueError(
            f"captions: expected one for each of {len(names)} names, at least one, got {len(captions)}."
        )
    pairs = list(zip(captions, names, strict=True))
    exact = sum(tokenize(caption) == tokenize(name) for caption, name in pairs)
    base = sum(base_name(caption) == base_name(name) for caption, name in pairs)
    return exact / len(pairs), base / len(pairs)


def encoder(*, grid: bool = False) -> PictureEncoder:
    """Open the encoder of the features.

    Parameters
    ----------
    grid : bool
        Whether the features are those of a grid, see `load`.

    Returns
    -------
    PictureEncoder
        EfficientNet-Lite0 and the stored projection; pictures are composited with white and padded to a square.

    Raises
    ------
    MissingExtraError
        If a package of the extra ``vision`` is not installed.
    ValueError, OSError
        As `capgpu.vision.open_encoder`.
    """
    from capgpu.vision import open_encoder

    side = GRID_SIDE if grid else None
    return open_encoder("efficientnet-lite0", fit="pad", grid=side, projection=_projection(grid))


def project(pooled: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float32]:
    """Project pooled outputs of EfficientNet-Lite0 to features as from `load`.

    Parameters
    ----------
    pooled : numpy.ndarray of float, shape (N, 1280)
        Outputs of the last convolution, averaged over a picture of 224 x 224 pixels scaled as (x - 127) / 128.

    Returns
    -------
    numpy.ndarray of float32, shape (N, 256)
        Features.

    Raises
    ------
    ValueError
        For an array of another shape.
    """
    if pooled.ndim != 2:
        raise InvalidValueError(f"pooled: expected shape (N, 1280), got {pooled.shape}.")
    return _projection(False).apply(pooled)


def thumbnail(part: str, index: int) -> npt.NDArray[np.uint8]:
    """Return one picture of the sprite, for display.

    Parameters
    ----------
    part : {"val", "test", "unseen"}
        The part; training pictures are not in the sprite.
    index : int
        Index of the picture in the part.

    Returns
    -------
    numpy.ndarray of uint8, shape (64, 64, 3)
        RGB on white.

    Raises
    ------
    ValueError
        If the part is not in the sprite, or the index is out of range.
    """
    if part not in SPRITE_PARTS:
        raise InvalidValueError(
            f"part: expected one of {', '.join(SPRITE_PARTS)}, whose pictures are in the sprite, got {short(part)}."
        )
    counts = _part_sizes()
    if not 0 <= index < counts[part]:
        raise InvalidValueError(f"index: expected 0 to {counts[part] - 1} for the part {part}, got {index}.")
    position = index + sum(counts[earlier] for earlier in SPRITE_PARTS[: SPRITE_PARTS.index(part)])
    row, column = divmod(position, SPRITE_COLUMNS)
    top, left = row * THUMBNAIL_SIZE, column * THUMBNAIL_SIZE
    return _sprite()[top : top + THUMBNAIL_SIZE, left : left + THUMBNAIL_SIZE].copy()


@cache
def _projection(grid: bool) -> Projection:
    from capgpu.vision.projection import Projection

    stored = _read_npz("emoji_grid.npz" if grid else "emoji_pca.npz")
    return Projection(stored["mean"], stored["components"])


@cache
def _part_sizes() -> dict[str, int]:
    stored = _read_npz("emoji.npz")
    return {part: len(stored[f"{part}_names"]) for part in PARTS}


@cache
def _sprite() -> npt.NDArray[np.uint8]:
    from PIL import Image

    with (_FILES / "emoji_sprite.png").open("rb") as file, Image.open(file) as picture:
        return np.asarray(picture.convert("RGB"))
