"""Malformed and large metadata do not keep a picture from being read, upright."""

from __future__ import annotations

import io
import random
import struct
import zlib
from pathlib import Path

import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from capgpu.vision import load_picture
from capgpu.vision.preprocessing import strict_pillow

ORIENTATION = 0x0112
ORDERS = {b"II": "<", b"MM": ">"}


def picture() -> Image.Image:
    """A picture whose upper half is green after a turn by 90 degrees clockwise (orientation 6)."""
    made = Image.new("RGB", (16, 8), "red")
    made.paste("lime", (0, 0, 8, 8))
    return made


def exif() -> Image.Exif:
    made = Image.Exif()
    made[ORIENTATION], made[0x011A], made[0x0128], made[0x010F] = 6, 72.0, 2, "a maker of cameras"
    return made


def is_upright(path: Path) -> bool:
    with strict_pillow():
        pixels = load_picture(path, 8)
    return bool(pixels[1, 4, 1] > 180 and pixels[6, 4, 0] > 180)


def encoded(kind: str) -> tuple[bytearray, int]:
    """Return a picture file with EXIF data, and the position of their directory's header."""
    buffer = io.BytesIO()
    picture().save(buffer, kind, exif=exif(), **({} if kind == "PNG" else {"quality": 95}))
    content = buffer.getvalue()
    block = exif().tobytes().removeprefix(b"Exif\0\0")
    return bytearray(content), 0 if kind == "TIFF" else content.index(block)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF", "WEBP"])
def test_pictures_with_a_malformed_tag_are_read_upright(kind: str, tmp_path: Path) -> None:
    whole, start = encoded(kind)
    order = ORDERS[bytes(whole[start : start + 2])]
    first = start + struct.unpack_from(order + "L", whole, start + 4)[0]
    (count,) = struct.unpack_from(order + "H", whole, first)
    entries = [first + 2 + 12 * k for k in range(count)]
    tags = {struct.unpack_from(order + "H", whole, entry)[0]: entry for entry in entries}
    numbers = random.Random(0)
    path = tmp_path / "picture"
    for _ in range(60):
        content = bytearray(whole)
        entry = tags[numbers.choice([0x011A, 0x0128, 0x010F])]
        for _ in range(numbers.choice((1, 2))):
            content[entry + 2 + numbers.randrange(10)] = numbers.randrange(256)  # type, count or value
        if kind == "PNG" and numbers.random() < 0.5:
            chunk = content.index(b"eXIf")
            end = chunk + 4 + struct.unpack_from(">L", content, chunk - 4)[0]
            content[end : end + 4] = struct.pack(">L", zlib.crc32(content[chunk:end]))
        path.write_bytes(content)
        assert is_upright(path), content[start : start + 200].hex()


def large_texts() -> dict[str, object]:
    texts = PngInfo()
    texts.add_text("Comment", "one text " * 400_000, zip=True)
    texts.add_itxt("Description", "another text " * 300_000, zip=True)
    return {"format": "PNG", "pnginfo": texts}


def many_texts() -> dict[str, object]:
    texts = PngInfo()
    for k in range(66):
        texts.add_text(f"Comment {k}", "x" * 1_000_000)
    return {"format": "PNG", "pnginfo": texts}


@pytest.mark.parametrize(
    "options",
    [
        large_texts(),
        many_texts(),
        {"format": "PNG", "icc_profile": bytes(4_000_000)},
        {"format": "JPEG", "icc_profile": bytes(4_000_000), "comment": b"x" * 60_000, "quality": 95},
    ],
    ids=["large texts", "many texts", "png profile", "jpeg profile"],
)
def test_pictures_with_large_metadata_are_read_upright(options: dict[str, object], tmp_path: Path) -> None:
    picture().save(tmp_path / "picture", exif=exif(), **options)  # type: ignore[arg-type] # options of any format
    assert is_upright(tmp_path / "picture")


@pytest.mark.parametrize("options", [large_texts(), {"format": "JPEG"}], ids=["png", "jpeg"])
def test_truncated_pictures_are_refused_with_and_without_metadata(options: dict[str, object], tmp_path: Path) -> None:
    noise = Image.effect_noise((64, 64), 90).convert("RGB")
    buffer = io.BytesIO()
    noise.save(buffer, exif=exif(), **options)  # type: ignore[arg-type] # options of any format
    content = buffer.getvalue()
    pixels = content.index(b"IDAT") if options["format"] == "PNG" else content.index(b"\xff\xda")
    (tmp_path / "picture").write_bytes(content[: pixels + 500])
    with pytest.raises((OSError, ValueError, SyntaxError)):
        load_picture(tmp_path / "picture", 8)
