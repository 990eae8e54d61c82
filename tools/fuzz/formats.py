"""The formats that are fuzzed: how to write sound files, how to mutate them, how to read them."""

from __future__ import annotations

from tools.fuzz import caption_formats, data_formats, picture_formats, trained_formats
from tools.fuzz.format import Format

__all__ = ["FORMATS"]

#: The formats by their names. A new one is entered in the module of its kind.
FORMATS: dict[str, Format] = {
    **trained_formats.FORMATS,
    **data_formats.FORMATS,
    **caption_formats.FORMATS,
    **picture_formats.FORMATS,
}
