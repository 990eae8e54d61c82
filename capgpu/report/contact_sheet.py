"""Contact sheets: a grid of captioned pictures."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.evaluation.match import Match
from capgpu.report.image_file import check_image_name, write_image
from capgpu.report.typeface import Typeface

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

__all__ = ["Cell", "draw_contact_sheet"]

# Sign, colour, and the sign's colour on it: blue, orange and black of Okabe and Ito's palette. For protan, deutan and
# tritan vision (Machado et al. 2009) any two differ by 57 or more in CIELAB, and by 25 in lightness alone; orange and
# vermillion would differ by 18.
_MARKS: dict[Match, tuple[str, str, str]] = {
    "right": ("✓", "#0072B2", "#FFFFFF"),
    "near": ("≈", "#E69F00", "#000000"),
    "wrong": ("✗", "#000000", "#FFFFFF"),
}
_PAPER, _CARD, _INK, _FAINT = "#EFEFEC", "#FFFFFF", "#1A1A1A", "#555555"

# pixels: a sheet of six columns is shown at two thirds of its size on a page of 830 pixels, where text of 16 has 11
_CARD_WIDTH, _PAD, _GAP, _MARGIN = 190, 12, 12, 20
_BAR, _DRAWING, _RADIUS, _BADGE, _KEY = 6, 104, 10, 28, 22
_LINE, _LEGEND = 20, 36
#: Narrower sheets have room for their title, too.
_LEAST_WIDTH = 600
#: At most this fraction of a photograph is cropped away.
_LARGEST_CROP = 0.5


@dataclass(frozen=True)
class Cell:
    """One captioned picture.

    Attributes
    ----------
    picture : numpy.ndarray of uint8, shape (height, width, 3) or (height, width, 4)
        The picture, RGB or RGBA.
    caption : str
        The generated caption.
    truth : str
        A true caption.
    match : {"right", "near", "wrong"}
        How the caption matches the true ones; determines its mark.
    """

    picture: npt.NDArray[np.uint8]
    caption: str
    truth: str
    match: Match


def draw_contact_sheet(
    path: str | os.PathLike[str],
    cells: Sequence[Cell],
    *,
    title: str,
    subtitle: str = "",
    legend: dict[Match, str] | None = None,
    columns: int | None = None,
    headings: Mapping[int, str] | None = None,
    fill: bool = False,
) -> None:
    """Draw captioned pictures in a grid and write them to a file.

    Each card shows the picture, a mark, the caption, and the true caption if it differs. Rows are as high as their
    longest text: nothing is cut off.

    Parameters
    ----------
    path : path
        The file; replaced whole if it exists. Its suffix determines the format, see
        `capgpu.report.image_file.SUFFIXES`.
    cells : sequence of Cell
        The pictures, row by row.
    title : str
        Title of the sheet.
    subtitle : str
        Lines below the title, separated by line breaks; long ones are wrapped.
    legend : dict, optional
        Text of the legend for each mark shown in it; by default ``"right"`` and ``"wrong"``.
    columns : int, optional
        Cards per row; by default 6, more for more than 42 pictures.
    headings : mapping of int to str, optional
        Lines above the cards with these indices; such a card begins a new row.
    fill : bool
        Whether pictures fill the upper part of their cards, as photographs do, of which at most half is cropped away.
        Otherwise they are shown whole, with a margin.

    Raises
    ------
    TypeError, ValueError
        For no cells, `columns` below 1, pictures of another dtype or shape, or an unknown suffix.
    """
    from PIL import Image, ImageDraw

    check_image_name(path)
    columns = max(6, round(math.sqrt(len(cells)))) if columns is None else columns
    _check(cells, columns)
    rows = _rows(len(cells), columns, headings or {})
    columns = max(map(len, rows))
    legend = {"right": "right", "wrong": "wrong"} if legend is None else legend
    width = max(columns * (_CARD_WIDTH + _GAP) - _GAP + 2 * _MARGIN, _LEAST_WIDTH)
    header = _header(title, subtitle, width)
    texts = [_texts(cell) for cell in cells]
    bands = [_Band(row, _heading((headings or {}).get(row[0], ""), width)) for row in rows]
    heights = [_card_height([texts[i] for i in band.row], fill) for band in bands]
    key = _legend_places(legend, width)
    top = 2 * _MARGIN + sum(line.height for line in header) + _LEGEND * (key[-1].row + 1 if key else 0)
    size = top + sum(band.above for band in bands) + sum(heights) + _GAP * (len(bands) - 1) + _MARGIN
    sheet = Image.new("RGB", (width, size), _PAPER)
    pen = ImageDraw.Draw(sheet)
    y = _draw_lines(pen, _MARGIN, _MARGIN, header)
    _draw_legend(sheet, y + _GAP // 2, key)
    y = top
    for band, height in zip(bands, heights, strict=True):
        _draw_lines(pen, _MARGIN, y, band.heading)
        y += band.above
        for column, i in enumerate(band.row):
            card = _card(cells[i], texts[i], height, fill)
            sheet.paste(card, (_MARGIN + column * (_CARD_WIDTH + _GAP), y), _rounded(card.size, _RADIUS))
        y += height + _GAP
    write_image(path, sheet, drawing=not fill)


@dataclass(frozen=True)
class _Line:
    """A line of text."""

    text: str
    face: Typeface
    colour: str
    height: int


@dataclass(frozen=True)
class _Key:
    """An entry of the legend, `x` pixels from the left in a row of it."""

    match: Match
    name: str
    x: int
    row: int


@dataclass(frozen=True)
class _Band:
    """A row of cards, and the lines above it."""

    row: range
    heading: list[_Line]

    @property
    def above(self) -> int:
        """Height of the heading, with the space below it."""
        return sum(line.height for line in self.heading) + (6 if self.heading else 0)


def _rows(count: int, columns: int, headings: Mapping[int, str]) -> list[range]:
    """Distribute cards over rows; a card with a heading begins a new row."""
    starts = sorted({0, count, *(i for i in headings if 0 <= i < count)})
    return [
        range(start, min(start + columns, end))
        for first, end in itertools.pairwise(starts)
        for start in range(first, end, columns)
    ]


def _heading(text: str, width: int) -> list[_Line]:
    return _lines(text, Typeface(17, bold=True), _INK, 24, width - 2 * _MARGIN) if text else []


def _check(cells: Sequence[Cell], columns: int) -> None:
    if len(cells) == 0:
        raise InvalidValueError("cells: expected at least one picture, got none.")
    if columns < 1:
        raise InvalidValueError(f"columns: expected at least 1, got {columns}.")
    for i, cell in enumerate(cells):
        shape, dtype = cell.picture.shape, cell.picture.dtype
        if dtype != np.uint8:
            raise InvalidTypeError(f"cells[{i}].picture: expected dtype uint8, 0 to 255, got {dtype}.")
        if len(shape) != 3 or shape[2] not in (3, 4) or 0 in shape:
            raise InvalidValueError(f"cells[{i}].picture: expected shape (height, width, 3 or 4), got {shape}.")


def _header(title: str, subtitle: str, width: int) -> list[_Line]:
    text_width = width - 2 * _MARGIN
    lines = _lines(title, Typeface(24, bold=True), _INK, 31, text_width)
    return lines + [
        line for part in subtitle.splitlines() for line in _lines(part, Typeface(16), _FAINT, 24, text_width)
    ]


def _texts(cell: Cell) -> list[_Line]:
    text_width = _CARD_WIDTH - 2 * _PAD
    lines = _lines(cell.caption or "(nothing)", Typeface(16, bold=True), _INK, _LINE, text_width)
    if cell.truth and cell.caption != cell.truth:
        lines += _lines(f"truth: {cell.truth}", Typeface(15), _FAINT, _LINE, text_width)
    return lines


def _lines(text: str, face: Typeface, colour: str, height: int, width: int) -> list[_Line]:
    return [_Line(line, face, colour, height) for line in face.wrap(text, width)]


def _draw_lines(pen: ImageDraw, x: float, y: int, lines: Sequence[_Line]) -> int:
    """Draw lines of text below each other and return where the next one would begin."""
    for line in lines:
        line.face.draw(pen, x, y + round(0.76 * line.height), line.text, line.colour)
        y += line.height
    return y


def _legend_places(legend: Mapping[Match, str], width: int) -> list[_Key]:
    """Distribute the entries of the legend over rows."""
    face, row, x = Typeface(16), 0, _MARGIN
    places = []
    for match, name in legend.items():
        size = _KEY + 7 + round(face.width(name))
        if x > _MARGIN and x + size > width - _MARGIN:
            row, x = row + 1, _MARGIN
        places.append(_Key(match, name, x, row))
        x += size + 26
    return places


def _draw_legend(sheet: Image, y: int, places: Sequence[_Key]) -> None:
    from PIL import ImageDraw

    for key in places:
        badge, mask = _badge(key.match, _KEY)
        top = y + key.row * (_LEGEND - 6)
        sheet.paste(badge, (key.x, top), mask)
        Typeface(16).draw(ImageDraw.Draw(sheet), key.x + _KEY + 7, top + 17, key.name, _INK)


def _picture_height(fill: bool) -> int:
    return _CARD_WIDTH if fill else _DRAWING + 2 * _PAD


def _text_top(fill: bool) -> int:
    return _BAR + _picture_height(fill) + (9 if fill else 3)


def _card_height(texts: Sequence[Sequence[_Line]], fill: bool) -> int:
    return _text_top(fill) + max(map(len, texts)) * _LINE + _PAD


def _card(cell: Cell, texts: Sequence[_Line], height: int, fill: bool) -> Image:
    from PIL import Image, ImageDraw

    card = Image.new("RGB", (_CARD_WIDTH, height), _CARD)
    pen = ImageDraw.Draw(card)
    pen.rectangle((0, 0, _CARD_WIDTH, _BAR - 1), fill=_MARKS[cell.match][1])
    picture = _fitted(cell.picture, fill)
    left, top = (_CARD_WIDTH - picture.width) // 2, _BAR + (_picture_height(fill) - picture.height) // 2
    card.paste(picture, (left, top), picture)
    badge, mask = _badge(cell.match, _BADGE)
    card.paste(badge, (_CARD_WIDTH - _BADGE - 8, _BAR + 8), mask)
    _draw_lines(pen, _PAD, _text_top(fill), texts)
    return card


def _fitted(picture: npt.NDArray[np.uint8], fill: bool) -> Image:
    """Scale a picture to its part of the card, all of which it fills if it is a photograph."""
    from PIL import Image, ImageFilter

    image = Image.fromarray(picture).convert("RGBA")
    if not fill:
        return _resized(image, (0, 0, *image.size), _DRAWING / max(image.size))
    square = _crop(image, min(image.size))
    window = max(min(image.size), max(image.size) * (1 - _LARGEST_CROP))
    photograph = _resized(image, _crop(image, window), _CARD_WIDTH / window)
    # behind a picture that is too long or too high to fill the square lies a pale, blurred copy of it that does
    behind = _resized(image, square, _CARD_WIDTH / min(image.size)).filter(ImageFilter.GaussianBlur(9))
    behind = Image.blend(behind, Image.new("RGBA", behind.size, _CARD), 0.6)
    place = (behind.width - photograph.width) // 2, (behind.height - photograph.height) // 2
    behind.paste(photograph, place, photograph)
    return behind


def _crop(image: Image, side: float) -> tuple[float, float, float, float]:
    """Return the part of a picture inside a square, centred but for a little more of its upper half."""
    width, height = min(image.width, side), min(image.height, side)
    left, top = (image.width - width) / 2, (image.height - height) * 0.4
    return left, top, left + width, top + height


def _resized(image: Image, box: tuple[float, float, float, float], scale: float) -> Image:
    from PIL import Image

    size = max(round((box[2] - box[0]) * scale), 1), max(round((box[3] - box[1]) * scale), 1)
    return image.resize(size, Image.Resampling.LANCZOS, box=box)


@cache
def _badge(match: Match, size: int) -> tuple[Image, Image]:
    """Return a mark on a disc with a light rim, and its mask."""
    from PIL import Image, ImageDraw

    sign, colour, ink = _MARKS[match]
    badge = Image.new("RGB", (size, size), colour)
    badge.paste(_CARD, mask=_rounded((size, size), size / 2))
    badge.paste(colour, (2, 2), _rounded((size - 4, size - 4), size / 2 - 2))
    face = Typeface(round(0.62 * size), bold=True)
    face.draw(ImageDraw.Draw(badge), (size - face.width(sign)) / 2, round(0.72 * size), sign, ink)
    return badge, _rounded((size, size), size / 2)


@cache
def _rounded(size: tuple[int, int], radius: float) -> Image:
    """Return the mask of a rectangle with round corners and smooth edges."""
    from PIL import Image, ImageDraw

    fine = 4
    mask = Image.new("L", (fine * size[0], fine * size[1]))
    ImageDraw.Draw(mask).rounded_rectangle((0, 0, fine * size[0] - 1, fine * size[1] - 1), fine * radius, fill=255)
    return mask.resize(size, Image.Resampling.BOX)
