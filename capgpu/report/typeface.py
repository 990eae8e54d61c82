"""Text on pictures: fonts with glyphs for any script that the machine has fonts for, and line breaks."""

from __future__ import annotations

from functools import cache
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw
    from PIL.ImageFont import FreeTypeFont

__all__ = ["Typeface"]


class Typeface:
    """A font of one size, with other fonts for the characters that it lacks.

    The font is matplotlib's DejaVu Sans, which every installation has: Latin, Greek, Cyrillic, Arabic, the marks. The
    others are the machine's own, for Chinese or Devanagari. Characters that no font has are drawn as boxes.

    Parameters
    ----------
    size : int
        Size in pixels.
    bold : bool
        Whether DejaVu Sans is bold; other fonts are as they are.
    """

    def __init__(self, size: int, *, bold: bool = False) -> None:
        self.size = size
        self._file = _dejavu(bold)

    def width(self, text: str) -> float:
        """Return the width of a line of text, in pixels."""
        return sum(font.getlength(run) for run, font in self._runs(text))

    def draw(self, pen: ImageDraw, x: float, baseline: float, text: str, colour: str) -> None:
        """Draw a line of text from `x` on `baseline`."""
        for run, font in self._runs(text):
            pen.text((x, baseline), run, fill=colour, font=font, anchor="ls")
            x += font.getlength(run)

    def wrap(self, text: str, width: float) -> list[str]:
        """Wrap a text between words, and inside words that are longer than a line."""
        lines: list[str] = []
        line = ""
        for word in text.split():
            joined = f"{line} {word}" if line else word
            if self.width(joined) <= width:
                line = joined
                continue
            if line:
                lines.append(line)
            while len(word) > 1 and self.width(word) > width:
                cut = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or self.width(word[:n]) <= width)
                lines.append(word[:cut])
                word = word[cut:]
            line = word
        return [*lines, line]

    def _runs(self, text: str) -> list[tuple[str, FreeTypeFont]]:
        """Split a line into parts that one font can draw."""
        runs = groupby(text, key=lambda character: _file_with(ord(character), self._file))
        return [("".join(run), _font(file, self.size)) for file, run in runs]


def _dejavu(bold: bool) -> str:
    import matplotlib

    return str(Path(matplotlib.get_data_path(), "fonts", "ttf", f"DejaVuSans{'-Bold' if bold else ''}.ttf"))


@cache
def _font(file: str, size: int) -> FreeTypeFont:
    from PIL import ImageFont

    return ImageFont.truetype(file, size)


@cache
def _file_with(character: int, preferred: str) -> str:
    """Return the preferred font if it has a character or no other one has it, else one of the machine's."""
    if character in _characters(preferred):
        return preferred
    return next((file for file in _system_fonts() if character in _characters(file)), preferred)


@cache
def _system_fonts() -> list[str]:
    """Return the machine's font files, upright ones of regular weight first, in an order that does not change."""
    from matplotlib.font_manager import findSystemFonts

    def key(file: str) -> tuple[bool, str]:
        return not any(word in Path(file).stem.lower() for word in ("regular", "book", "medium")), file

    return sorted(findSystemFonts(), key=key)


@cache
def _characters(file: str) -> frozenset[int]:
    """Return the characters of a font; none for a file that cannot be drawn at any size, such as bitmaps."""
    from matplotlib.ft2font import FT2Font

    try:
        _font(file, 16)
        return frozenset(FT2Font(file).get_charmap())
    except (OSError, RuntimeError, ValueError):
        return frozenset()
