"""Contact sheets: a grid of captioned pictures, as a PNG."""

from __future__ import annotations

import itertools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from capgpu.checkpoint import atomic_write
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.evaluation.match import Match
from capgpu.report.png import check_png_name

if TYPE_CHECKING:
    from PIL import ImageDraw, ImageFont

__all__ = ["Cell", "draw_contact_sheet"]

# blue, amber and vermillion differ for every kind of colour vision, and the mark does not need colour
_MARKS: dict[Match, tuple[str, str]] = {
    "right": ("✓", "#0072B2"),
    "near": ("≈", "#B47A00"),
    "wrong": ("✗", "#D55E00"),
}
_PAPER, _CARD, _INK, _FAINT = "#F2F2F0", "#FFFFFF", "#1A1A1A", "#666666"

_CARD_WIDTH, _PICTURE, _PAD, _GAP = 232, 112, 12, 10
_SIZE, _LINE = 15, 19


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
    legend: dict[Match, str] | None = None,
    columns: int = 6,
    headings: Mapping[int, str] | None = None,
) -> None:
    """Draw captioned pictures in a grid and write them as a PNG.

    Each card shows the picture, a mark, the caption, and the true caption if it differs. Rows are as high as their
    longest text: nothing is cut off.

    Parameters
    ----------
    path : path
        The file; replaced whole if it exists.
    cells : sequence of Cell
        The pictures, row by row.
    title : str
        Title of the sheet.
    legend : dict, optional
        Text of the legend for each mark shown in it; by default ``"right"`` and ``"wrong"``.
    columns : int
        Cards per row.
    headings : mapping of int to str, optional
        Lines above the cards with these indices; such a card begins a new row.

    Raises
    ------
    TypeError, ValueError
        For no cells, `columns` below 1, pictures of another dtype or shape, or a name of another format.
    """
    from PIL import Image, ImageDraw

    check_png_name(path)
    _check(cells, columns)
    headings = headings or {}
    if legend is None:
        legend = {"right": "right", "wrong": "wrong"}
    font, bold = _font("DejaVuSans.ttf", _SIZE), _font("DejaVuSans-Bold.ttf", _SIZE)
    heading = _font("DejaVuSans-Bold.ttf", 20)
    columns = min(columns, len(cells))
    width = columns * (_CARD_WIDTH + _GAP) + _GAP
    title_lines = _wrap(title, heading, width - 2 * _GAP)
    top = _GAP + 26 * len(title_lines) + 30
    text_width = _CARD_WIDTH - 2 * _PAD
    texts = [_lines(cell, font, bold, text_width) for cell in cells]
    rows = _rows(len(cells), columns, headings)
    heights = [2 * _PAD + _PICTURE + 8 + _LINE * max(len(texts[i]) for i in row) for row in rows]
    heading_lines = {row[0]: _wrap(headings[row[0]], bold, width - 2 * _GAP) for row in rows if row[0] in headings}
    lines = sum(map(len, heading_lines.values()))
    sheet = Image.new(
        "RGB", (width, top + sum(heights) + _GAP * (len(rows) + len(heading_lines)) + _LINE * lines), _PAPER
    )
    pen = ImageDraw.Draw(sheet)
    for i, line in enumerate(title_lines):
        pen.text((_GAP, _GAP + 26 * i), line, fill=_INK, font=heading)
    _draw_legend(pen, top - 30, legend, font, bold)
    y = top
    for row, height in zip(rows, heights, strict=True):
        if row[0] in heading_lines:
            for line in heading_lines[row[0]]:
                pen.text((_GAP, y), line, fill=_INK, font=bold)
                y += _LINE
            y += _GAP
        for column, i in enumerate(row):
            x = _GAP + column * (_CARD_WIDTH + _GAP)
            mark, colour = _MARKS[cells[i].match]
            pen.rounded_rectangle((x, y, x + _CARD_WIDTH, y + height), 8, fill=_CARD)
            pen.rounded_rectangle((x, y, x + _CARD_WIDTH, y + 5), 2, fill=colour)
            pen.text((x + _CARD_WIDTH - _PAD, y + _PAD), mark, fill=colour, font=heading, anchor="ra")
            _paste(sheet, cells[i].picture, x + (_CARD_WIDTH - _PICTURE) // 2, y + _PAD)
            for number, (line, face, ink) in enumerate(texts[i]):
                pen.text((x + _PAD, y + _PAD + _PICTURE + 8 + _LINE * number), line, fill=ink, font=face)
        y += height + _GAP
    with atomic_write(path) as file:
        sheet.save(file, format="PNG", optimize=True)


def _rows(count: int, columns: int, headings: Mapping[int, str]) -> list[range]:
    """Distribute cards over rows; a card with a heading begins a new row."""
    starts = sorted({0, count, *(i for i in headings if 0 <= i < count)})
    return [
        range(start, min(start + columns, end))
        for first, end in itertools.pairwise(starts)
        for start in range(first, end, columns)
    ]


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


def _font(name: str, size: int) -> ImageFont.FreeTypeFont:
    """Load a font that matplotlib includes: it has the marks and accented letters on every machine."""
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(str(Path(matplotlib.get_data_path(), "fonts", "ttf", name)), size)


def _lines(cell: Cell, font: Any, bold: Any, width: int) -> list[tuple[str, Any, str]]:
    lines = [(line, bold, _MARKS[cell.match][1]) for line in _wrap(cell.caption or "(nothing)", bold, width)]
    if cell.caption != cell.truth:
        lines += [(line, font, _FAINT) for line in _wrap(f"truth: {cell.truth}", font, width)]
    return lines


def _wrap(text: str, font: Any, width: int) -> list[str]:
    """Wrap a text between words, and inside words that are longer than a line."""
    lines: list[str] = []
    line = ""
    for word in text.split():
        joined = f"{line} {word}" if line else word
        if font.getlength(joined) <= width:
            line = joined
            continue
        if line:
            lines.append(line)
        while len(word) > 1 and font.getlength(word) > width:
            cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or font.getlength(word[:n]) <= width)
            lines.append(word[:cut])
            word = word[cut:]
        line = word
    return [*lines, line]


def _draw_legend(pen: ImageDraw.ImageDraw, y: int, names: dict[Match, str], font: Any, bold: Any) -> None:
    x = float(_GAP)
    for match, name in names.items():
        mark, colour = _MARKS[match]
        pen.text((x, y), mark, fill=colour, font=bold)
        x += bold.getlength(mark) + 5
        pen.text((x, y), name, fill=_INK, font=font)
        x += font.getlength(name) + 22


def _paste(sheet: Any, picture: npt.NDArray[np.uint8], x: int, y: int) -> None:
    from PIL import Image

    image = Image.fromarray(picture).convert("RGBA")
    scale = _PICTURE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    image = image.resize(size, Image.Resampling.LANCZOS)
    sheet.paste(image, (x + (_PICTURE - image.width) // 2, y + (_PICTURE - image.height) // 2), image)
