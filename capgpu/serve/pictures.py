"""Uploaded pictures: limits of their size, type and pixels, enforced before anything is decoded.

A picture is the body of a request, never a form with file names: nothing that a client sends is used as a path. What
passes these checks is decoded by the model's encoder, as picture files are.
"""

from __future__ import annotations

import asyncio
import io
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple

from capgpu.serve.problems import RequestError

__all__ = ["Limits", "Picture", "check_picture", "damaged", "discard", "read_body"]

#: Seconds in which a picture must have arrived.
_UPLOAD_SECONDS = 30.0
_MEGA = 1_000_000
#: The first bytes of an icon file (ICO), and the pictures of different sizes that one may contain.
_ICON, _MOST_ICONS = b"\0\0\1\0", 256


@dataclass
class Limits:
    """Limits of uploads.

    Attributes
    ----------
    max_bytes : int
        Bytes of a picture file.
    max_pixels : int
        Pixels of a decoded picture.
    max_bytes_held : int
        Bytes of all uploads that are in memory at a time.
    """

    max_bytes: int = 10 * _MEGA
    max_pixels: int = 40 * _MEGA
    max_bytes_held: int = 512 * _MEGA
    _held: int = field(default=0, init=False)
    _refused: asyncio.Event = field(default_factory=asyncio.Event, init=False, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False, repr=False)

    @contextmanager
    def upload(self) -> Iterator[io.BytesIO]:
        """Yield an empty body; the bytes that `extend` adds to it count as held until the end of the block.

        Its ``getvalue()`` is no copy until more is written.
        """
        body = io.BytesIO()
        try:
            yield body
        finally:
            with self._lock:
                self._held -= body.tell()

    def refuse_uploads(self) -> None:
        """End uploads that are being read, with status 503; called in the server's loop when it stops."""
        self._refused.set()

    async def unless_refused(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Yield the parts of a body until uploads are refused.

        Parameters
        ----------
        chunks : async iterator of bytes
            The body as it arrives.

        Yields
        ------
        bytes
            The parts.

        Raises
        ------
        RequestError
            With status 503 when the server stops.
        """
        refused = asyncio.ensure_future(self._refused.wait())
        part: asyncio.Future[bytes | None] = refused.get_loop().create_future()
        try:
            while True:
                part = asyncio.ensure_future(_next(chunks))
                await asyncio.wait((part, refused), return_when=asyncio.FIRST_COMPLETED)
                if not part.done():
                    error = RequestError(503, "The server is stopping.", retry_after=1)
                    error.close = True
                    raise error
                if (chunk := part.result()) is None:
                    return
                yield chunk
        finally:
            part.cancel()
            refused.cancel()

    def extend(self, body: io.BytesIO, chunk: bytes) -> None:
        """Append a part of an upload to its body.

        Parameters
        ----------
        body : io.BytesIO
            As from `upload`.
        chunk : bytes
            The part.

        Raises
        ------
        RequestError
            With status 413 if the picture has too many bytes, 503 if all uploads together have.
        """
        if body.tell() + len(chunk) > self.max_bytes:
            raise self.too_large()
        with self._lock:
            if self._held + len(chunk) > self.max_bytes_held:
                raise RequestError(503, "Too many uploads are in progress. Try again in a moment.", retry_after=1)
            self._held += len(chunk)
        body.write(chunk)

    def too_large(self) -> RequestError:
        """Return the error of a picture with too many bytes."""
        return RequestError(
            413, f"The picture file is too large: expected at most {self.max_bytes / _MEGA:g} MB. Reduce its size."
        )


async def _next(chunks: AsyncIterator[bytes]) -> bytes | None:
    return await anext(chunks, None)


class Picture(NamedTuple):
    """What is known of a picture before it is decoded.

    Attributes
    ----------
    format : str
        As Pillow names it: ``"JPEG"``.
    width, height : int
        Size in pixels, as stored.
    """

    format: str
    width: int
    height: int


async def read_body(
    chunks: AsyncIterator[bytes],
    content_type: str | None,
    content_length: str | None,
    body: io.BytesIO,
    limits: Limits,
) -> None:
    """Read an upload, and stop as soon as it exceeds a limit.

    Parameters
    ----------
    chunks : async iterator of bytes
        The body as it arrives.
    content_type, content_length : str or None
        Headers of the request.
    body : io.BytesIO
        As from `Limits.upload`; receives the bytes.
    limits : Limits
        The limits.

    Raises
    ------
    RequestError
        With status 415 for another type than a picture's, 413 for too many bytes, 400 for none, 408 if the upload
        takes too long, 503 as `Limits.extend`.
    """
    kind = (content_type or "").partition(";")[0].strip().lower()
    if not kind.startswith("image/"):
        raise RequestError(
            415,
            "Content-Type: expected the type of a picture, such as image/jpeg, and the picture file as the body, got "
            f"{kind or 'none'}.",
        )
    if content_length is not None and content_length.isdecimal() and int(content_length) > limits.max_bytes:
        raise limits.too_large()
    try:
        async with asyncio.timeout(_UPLOAD_SECONDS):
            async for chunk in chunks:
                limits.extend(body, chunk)
    except TimeoutError:
        error = RequestError(
            408, f"The picture did not arrive within {_UPLOAD_SECONDS:g} s. Reduce its size, or try again."
        )
        error.close = True  # the timeout has ended `chunks`: nothing reads the rest
        raise error from None
    if not body.tell():
        raise RequestError(400, "Expected a picture file as the body of the request, got nothing.")


async def discard(chunks: AsyncIterator[bytes], limits: Limits) -> bool:
    """Read the rest of a refused upload, up to the limit of one: many clients read no answer while they are sending.

    Parameters
    ----------
    chunks : async iterator of bytes
        The rest of the body.
    limits : Limits
        The limits.

    Returns
    -------
    bool
        Whether all of it was read.
    """
    size = 0
    with suppress(TimeoutError):
        async with asyncio.timeout(_UPLOAD_SECONDS):
            async for chunk in chunks:
                size += len(chunk)
                if size > limits.max_bytes:
                    return False
            return True
    return False


def check_picture(content: bytes, max_pixels: int) -> Picture:
    """Read the header of a picture file, and check what it announces.

    Parameters
    ----------
    content : bytes
        The file.
    max_pixels : int
        The limit of the pixels.

    Returns
    -------
    Picture
        Format and size.

    Raises
    ------
    RequestError
        With status 415 if it is no picture in an accepted format, 413 for too many pixels, 422 for a damaged header.
    """
    from PIL import Image, UnidentifiedImageError

    from capgpu.vision.metadata import without_metadata
    from capgpu.vision.preprocessing import openable_formats

    if _icon_pixels(content) > max_pixels:
        raise _too_many_pixels(max_pixels)
    try:
        try:
            picture = _header(content)
        except Image.DecompressionBombError:
            raise
        except Exception:  # of any type; metadata alone never keep a sound picture from being decoded
            plain = without_metadata(content)
            if plain is None:
                raise
            picture = _header(plain[0])
    except Image.DecompressionBombError:
        raise _too_many_pixels(max_pixels) from None
    except UnidentifiedImageError:
        formats = ", ".join(openable_formats())
        raise RequestError(
            415, f"The file is not a picture in one of the formats {formats}, or its beginning is damaged."
        ) from None
    except Exception as error:
        raise damaged(error) from error
    if picture.width * picture.height > max_pixels:
        raise _too_many_pixels(max_pixels)
    return picture


def _header(content: bytes) -> Picture:
    from PIL import Image

    from capgpu.vision.preprocessing import openable_formats

    with Image.open(io.BytesIO(content), formats=openable_formats()) as opened:
        return Picture(opened.format or "", *opened.size)


def _icon_pixels(content: bytes) -> int:
    """Return the pixels of the largest picture in an icon file; 0 for other files.

    Pillow decodes a picture of an icon as it opens the file, before its size could be compared with a limit: the file's
    directory contains another size, which may be false.
    """
    from PIL import BmpImagePlugin, PngImagePlugin

    if not content.startswith(_ICON):
        return 0
    count = int.from_bytes(content[4:6], "little")
    if count > _MOST_ICONS:
        raise damaged(f"expected an icon of at most {_MOST_ICONS} sizes, got {count}")
    file, pixels = io.BytesIO(content), 0
    for entry in range(6, 6 + 16 * count, 16):
        start = int.from_bytes(content[entry + 12 : entry + 16], "little")
        is_png = content[start : start + 8] == b"\x89PNG\r\n\x1a\n"
        file.seek(start)
        with suppress(Exception):  # which Pillow raises as well, if it opens this one
            width, height = (PngImagePlugin.PngImageFile if is_png else BmpImagePlugin.DibImageFile)(file).size
            pixels = max(pixels, width * height)
    return pixels


def damaged(cause: object) -> RequestError:
    """Return the error of a picture that cannot be decoded."""
    text = " ".join(str(cause).split()).rstrip(".")
    return RequestError(422, f"The picture cannot be decoded: {text or type(cause).__name__}.")


def _too_many_pixels(max_pixels: int) -> RequestError:
    return RequestError(
        413, f"The picture has too many pixels: expected at most {max_pixels / _MEGA:g} million. Reduce its size."
    )
