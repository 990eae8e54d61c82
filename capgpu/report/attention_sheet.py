"""Attention sheets: where a model looked in a picture as it chose each word of a caption."""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from capgpu.captions import Caption
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.report.image_file import check_image_name, write_image
from capgpu.report.typeface import Typeface
from capgpu.vision.preprocessing import Fit, seen_box
from capgpu.vocabulary import END

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

__all__ = ["PICTURE_SIZE", "AttentionPicture", "attention_map", "draw_attention_sheet"]

_PAPER, _CARD, _INK, _FAINT = "#EFEFEC", "#FFFFFF", "#1A1A1A", "#555555"
#: What lies over the parts of a picture that have no weight: dark, and blue as few pictures are.
_SHADE, _DEEPEST = (16, 24, 56), 0.82
# pixels, as of contact sheets
#: Longer side of a picture on a sheet, in pixels.
PICTURE_SIZE = 176
_GAP, _MARGIN, _LINE, _COLUMNS = 12, 20, 21, 6
_KEY_WIDTH, _KEY_HEIGHT = 120, 12


@dataclass(frozen=True)
class AttentionPicture:
    """A picture with a caption of a model with attention.

    Attributes
    ----------
    picture : numpy.ndarray of uint8, shape (height, width, 3)
        The picture, RGB.
    caption : Caption
        The caption, with its ``attention``.
    fit : {"stretch", "crop", "pad"}
        How the encoder makes pictures square, see `capgpu.vision.Preprocessing`.
    name : str
        Name of the picture, for display.
    """

    picture: npt.NDArray[np.uint8]
    caption: Caption
    fit: Fit = "stretch"
    name: str = ""


def attention_map(
    weights: Sequence[float] | npt.NDArray[np.floating], width: int, height: int, fit: Fit = "stretch"
) -> npt.NDArray[np.float32]:
    """Return the weights of a grid's cells as a map over the picture.

    Parameters
    ----------
    weights : sequence of L float
        Weights of a square grid of L cells, row by row.
    width, height : int
        Size of the map, in pixels.
    fit : {"stretch", "crop", "pad"}
        How the encoder makes pictures square.

    Returns
    -------
    numpy.ndarray of float32, shape (height, width)
        From 0 to 1, the largest weight; interpolated between the centres of cells, 0 where the encoder does not look.

    Raises
    ------
    ValueError
        If the grid is not square, or the weights are negative, not finite or all 0.

    Examples
    --------
    >>> (4 * attention_map([0.25, 0.75, 0.0, 0.0], 4, 2)).round().astype(int).tolist()
    [[1, 2, 3, 4], [0, 0, 0, 0]]
    """
    from PIL import Image

    values = np.asarray(weights, np.float32)
    side = math.isqrt(values.size)
    if values.ndim != 1 or side * side != values.size or side == 0:
        raise InvalidValueError(f"weights: expected those of a square grid's cells, got shape {values.shape}.")
    if not np.isfinite(values).all() or values.min() < 0 or values.max() <= 0:
        raise InvalidValueError("weights: expected finite weights of at least 0, one of them above, got others.")
    left, top, right, bottom = seen_box(width, height, fit)
    grid = Image.fromarray(values.reshape(side, side) / values.max())
    size = max(round(right - left), 1), max(round(bottom - top), 1)
    seen = np.clip(np.asarray(grid.resize(size, Image.Resampling.BICUBIC)), 0, 1)
    first_row, first_column = max(-round(top), 0), max(-round(left), 0)
    seen = seen[first_row : first_row + height, first_column : first_column + width]
    out = np.zeros((height, width), np.float32)
    row, column = max(round(top), 0), max(round(left), 0)
    out[row : row + seen.shape[0], column : column + seen.shape[1]] = seen
    return out


def draw_attention_sheet(path: str | os.PathLike[str], pictures: Sequence[AttentionPicture]) -> None:
    """Draw where a model looked as it chose each word, and write the sheet to a file.

    Each picture has its caption as a heading, and then one card for each word: the picture, which is light where the
    word's attention weights are largest and dark where they are small, the word, and its probability.

    Parameters
    ----------
    path : path
        The file; replaced whole if it exists. Its suffix determines the format, see
        `capgpu.report.image_file.SUFFIXES`.
    pictures : sequence of AttentionPicture
        The pictures, from top to bottom.

    Raises
    ------
    TypeError, ValueError
        For no pictures, captions without attention, pictures of another dtype or shape, or an unknown suffix.
    """
    from PIL import Image

    check_image_name(path)
    _check(pictures)
    columns = min(_COLUMNS, max(1 + len(entry.caption.tokens) for entry in pictures))
    width = max(columns, 4) * (PICTURE_SIZE + _GAP) - _GAP + 2 * _MARGIN
    bands = [_band(entry, columns, width) for entry in pictures]
    key = _key(width)
    sheet = Image.new("RGB", (width, sum(band.height + _GAP for band in (key, *bands)) - _GAP + 2 * _MARGIN), _PAPER)
    y = _MARGIN
    for band in (key, *bands):
        sheet.paste(band, (0, y))
        y += band.height + _GAP
    write_image(path, sheet, drawing=False)


def _check(pictures: Sequence[AttentionPicture]) -> None:
    if len(pictures) == 0:
        raise InvalidValueError("pictures: expected at least one, got none.")
    for i, entry in enumerate(pictures):
        shape, dtype = entry.picture.shape, entry.picture.dtype
        if dtype != np.uint8:
            raise InvalidTypeError(f"pictures[{i}].picture: expected dtype uint8, 0 to 255, got {dtype}.")
        if len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise InvalidValueError(f"pictures[{i}].picture: expected shape (height, width, 3), got {shape}.")
        if not entry.caption.tokens or len(entry.caption.attention) != len(entry.caption.tokens):
            raise InvalidValueError(
                f"pictures[{i}].caption: expected attention weights for each of its {len(entry.caption.tokens)} words, "
                f"got {len(entry.caption.attention)}. Only models with cell_type='attention' have them."
            )


def _key(width: int) -> Image:
    """Draw the explanation of light and dark."""
    from PIL import Image, ImageDraw

    strip = Image.new("RGB", (width, _LINE + 4), _PAPER)
    pen, face = ImageDraw.Draw(strip), Typeface(15)
    ramp = np.broadcast_to(np.linspace(0, 1, _KEY_WIDTH, dtype=np.float32), (_KEY_HEIGHT, _KEY_WIDTH))
    white = np.full((_KEY_HEIGHT, _KEY_WIDTH, 3), 255, np.uint8)
    x = float(_MARGIN)
    for text in ("Attention at each word: none", "", "the most"):
        if text:
            face.draw(pen, x, 17, text, _FAINT)
            x += face.width(text) + 8
        else:
            strip.paste(Image.fromarray(_shaded(white, ramp)), (round(x), 6))
            x += _KEY_WIDTH + 8
    return strip


def _band(entry: AttentionPicture, columns: int, width: int) -> Image:
    """Draw a picture's caption and its cards."""
    from PIL import Image, ImageDraw

    heading, small = Typeface(21, bold=True), Typeface(15)
    text_width = width - 2 * _MARGIN
    lines = [(line, heading, _INK, 29) for line in heading.wrap(entry.caption.text or "(nothing)", text_width)]
    lines += [(line, small, _FAINT, _LINE) for line in small.wrap(entry.name, text_width) if line]
    picture = _fitted(entry.picture)
    cards = [_card(picture, "", "the picture")]
    for token, probability, weights in zip(
        entry.caption.tokens, entry.caption.probabilities, entry.caption.attention, strict=True
    ):
        light = attention_map(weights, picture.shape[1], picture.shape[0], entry.fit)
        word = "(end)" if token == END else token
        cards.append(_card(_shaded(picture, light), word, _percent(probability)))
    rows = [cards[start : start + columns] for start in range(0, len(cards), columns)]
    top = sum(line[3] for line in lines) + 6
    band = Image.new("RGB", (width, top + sum(row[0].height + _GAP for row in rows) - _GAP), _PAPER)
    pen, y = ImageDraw.Draw(band), 0
    for text, face, colour, height in lines:
        face.draw(pen, _MARGIN, y + round(0.76 * height), text, colour)
        y += height
    y = top
    for row in rows:
        for column, card in enumerate(row):
            band.paste(card, (_MARGIN + column * (PICTURE_SIZE + _GAP), y))
        y += row[0].height + _GAP
    return band


def _fitted(picture: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Scale a picture into a card."""
    from PIL import Image

    image = Image.fromarray(picture)
    scale = PICTURE_SIZE / max(image.size)
    size = max(round(image.width * scale), 1), max(round(image.height * scale), 1)
    return np.asarray(image.resize(size, Image.Resampling.LANCZOS))


def _shaded(picture: npt.NDArray[np.uint8], light: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """Darken a picture where there is no light."""
    shade = (_DEEPEST * (1 - light))[:, :, None]
    mixed = picture * (1 - shade) + np.array(_SHADE, np.float32) * shade
    return np.asarray(mixed.round(), np.uint8)


def _card(picture: npt.NDArray[np.uint8], word: str, note: str) -> Image:
    """Draw a picture above a word and a note."""
    from PIL import Image, ImageDraw

    image = Image.fromarray(picture)
    card = Image.new("RGB", (PICTURE_SIZE, image.height + 2 * _LINE + 10), _CARD)
    card.paste(image, ((PICTURE_SIZE - image.width) // 2, 0))
    pen = ImageDraw.Draw(card)
    _draw_centred(pen, word, Typeface(17, bold=True), image.height + 20, _INK)
    _draw_centred(pen, note, Typeface(14), image.height + (20 + _LINE if word else 20), _FAINT)
    return card


def _draw_centred(pen: ImageDraw, text: str, face: Typeface, baseline: int, colour: str) -> None:
    lines = face.wrap(text, PICTURE_SIZE - 12)
    shown = lines[0] if len(lines) == 1 else f"{lines[0]}…"
    face.draw(pen, (PICTURE_SIZE - face.width(shown)) / 2, baseline, shown, colour)


def _percent(probability: float) -> str:
    return f"{probability:.0%}" if probability >= 0.1 else f"{probability:.1%}"
