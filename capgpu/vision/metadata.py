"""Metadata of picture files: the orientation is used, the rest never keeps a sound picture from being decoded.

Pillow parses text, colour profiles, resolutions and EXIF tags before any pixel, and raises exceptions for some that are
malformed or large. Such a file is decoded again from a copy in memory that contains only what the pixels need:

- JPEG: all segments but comments and application data other than JFIF's (APP0) and Adobe's (APP14, colour transform);
- PNG: the critical chunks, transparency (tRNS), and short texts that may contain the orientation;
- TIFF: the tags of the pixels, of the first image.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["orientation_of", "upright", "without_metadata"]

_ORIENTATION = 0x0112
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_TEXTS = (b"XML:com.adobe.xmp\0", b"Raw profile type exif\0")
_TIFF_HEADERS = {b"II*\0": "<", b"MM\0*": ">"}
#: Tags of a TIFF image that its pixels need: sizes, bits, compression, colours, strips, tiles, JPEG tables.
_TIFF_TAGS = frozenset(
    {256, 257, 258, 259, 262, 266, 273, _ORIENTATION, 277, 278, 279, 284, 292, 293, 317, 320, 322, 323, 324, 325}
    | {338, 339, 347, 529, 530, 531, 532}
)
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([1-8])')


def upright(picture: Image, orientation: int) -> Image:
    """Rotate or flip a picture by its EXIF orientation.

    Parameters
    ----------
    picture : PIL.Image.Image
        The picture as stored.
    orientation : int
        1 to 8.

    Returns
    -------
    PIL.Image.Image
        The same object for the orientation 1.
    """
    from PIL.Image import Transpose

    # ImageOps.exif_transpose also writes the other tags again, and fails on those that are malformed
    method = {
        2: Transpose.FLIP_LEFT_RIGHT,
        3: Transpose.ROTATE_180,
        4: Transpose.FLIP_TOP_BOTTOM,
        5: Transpose.TRANSPOSE,
        6: Transpose.ROTATE_270,
        7: Transpose.TRANSVERSE,
        8: Transpose.ROTATE_90,
    }.get(orientation)
    return picture if method is None else picture.transpose(method)


def orientation_of(picture: Image) -> int:
    """Return the EXIF orientation of an opened picture, 1 to 8; 1 if it is missing or invalid."""
    value: object = None
    with suppress(Exception):  # Pillow raises exceptions of any type for malformed tags
        value = picture.getexif().get(_ORIENTATION)
    if value is None and isinstance(exif := picture.info.get("exif"), bytes):
        return _exif_orientation(exif)
    if isinstance(value, tuple) and value:
        value = value[0]
    with suppress(Exception):  # of values of any type
        return number if (number := int(value)) == value and 1 <= number <= 8 else 1  # type: ignore[call-overload] # suppressed
    return 1


def without_metadata(content: bytes) -> tuple[bytes, int | None] | None:
    """Return a picture file without the metadata that its pixels do not need.

    Parameters
    ----------
    content : bytes
        Content of the file.

    Returns
    -------
    content : bytes
        A file with the same pixels.
    orientation : int or None
        The EXIF orientation that was removed; None if it may be in `content`.

    None for other formats than JPEG, PNG and TIFF, and damaged files.
    """
    with suppress(struct.error, IndexError):
        if content.startswith(b"\xff\xd8"):
            return _plain_jpeg(content)
        if content.startswith(_PNG):
            return _plain_png(content)
        if content[:4] in _TIFF_HEADERS:
            return _plain_tiff(content), None
    return None


def _exif_orientation(exif: bytes) -> int:
    """Return the orientation of a block of EXIF data, of which other tags may be malformed."""
    start = 6 if exif.startswith(b"Exif\0") else 0
    order = _TIFF_HEADERS.get(exif[start : start + 4])
    if order is None:
        return 1
    with suppress(struct.error):
        for tag, kind, _, position in _entries(exif, start, order):
            if tag == _ORIENTATION:
                (value,) = struct.unpack_from(order + {1: "B", 4: "L"}.get(kind, "H"), exif, position)
                return value if 1 <= value <= 8 else 1
    return 1


def _entries(content: bytes, start: int, order: str) -> Iterator[tuple[int, int, int, int]]:
    """Yield tag, type, position and position of the value of the entries of the first directory."""
    first = start + struct.unpack_from(order + "L", content, start + 4)[0]
    (count,) = struct.unpack_from(order + "H", content, first)
    for position in range(first + 2, first + 2 + 12 * count, 12):
        tag, kind = struct.unpack_from(order + "HH", content, position)
        yield tag, kind, position, position + 8


def _plain_jpeg(content: bytes) -> tuple[bytes, int | None]:
    parts, orientation, position = [content[:2]], 0, 2
    while content[position] == 0xFF:
        marker = content[position + 1]
        if marker == 0xFF:  # padding
            position += 1
            continue
        if marker == 0xDA or 0xD0 <= marker <= 0xD9:  # the pixels follow, or a marker without length
            break
        end = position + 2 + struct.unpack_from(">H", content, position + 2)[0]
        body = content[position + 4 : end]
        if marker == 0xE1 and not orientation:
            if body.startswith(b"Exif\0"):
                orientation = _exif_orientation(body)
            elif match := _XMP_ORIENTATION.search(body):
                orientation = int(match[1])
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            parts.append(content[position:end])
        position = end
    return b"".join([*parts, content[position:]]), orientation or 1


def _plain_png(content: bytes) -> tuple[bytes, int | None]:
    parts, orientation, position = [_PNG], None, len(_PNG)
    while position < len(content):
        length, kind = struct.unpack_from(">L4s", content, position)
        end = position + 12 + length
        if kind == b"eXIf":
            orientation = _exif_orientation(content[position + 8 : end - 4])
        oriented = kind in (b"iTXt", b"zTXt") and content.startswith(_PNG_TEXTS, position + 8) and length < 1 << 16
        if kind[:1].isupper() or kind == b"tRNS" or oriented:
            parts.append(content[position:end])
        if kind == b"IEND":
            break
        position = end
    return b"".join(parts), orientation


def _plain_tiff(content: bytes) -> bytes:
    order = _TIFF_HEADERS[content[:4]]
    (first,) = struct.unpack_from(order + "L", content, 4)
    kept_entries = [
        content[position : position + 12] for tag, _, position, _ in _entries(content, 0, order) if tag in _TIFF_TAGS
    ]
    # the directory becomes shorter, in its place, and the last one
    directory = struct.pack(order + "H", len(kept_entries)) + b"".join(kept_entries) + bytes(4)
    return content[:first] + directory + content[first + len(directory) :]
