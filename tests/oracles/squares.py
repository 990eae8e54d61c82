"""Pictures of one colour each, and captions of them."""

from __future__ import annotations

import io

from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (20, 160, 40), "blue": (30, 60, 220), "black": (10, 10, 10)}


def picture_file(colour: str, kind: str = "PNG", size: tuple[int, int] = (12, 12)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, COLOURS[colour]).save(content, kind)
    return content.getvalue()
