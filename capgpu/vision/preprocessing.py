"""Preprocessing of picture files for a network: orientation, transparency, channels, shape and scale."""

from __future__ import annotations

import io
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypeAlias, get_args

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.validation import check_count
from capgpu.visible_text import short
from capgpu.vision.metadata import orientation_of, upright, without_metadata

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Picture", "Preprocessing", "load_picture", "openable_formats", "seen_box", "strict_pillow"]

Fit = Literal["stretch", "crop", "pad"]
Channels = Literal["RGB", "BGR"]
#: A picture: a file, its contents in memory, an image of Pillow, or pixels of dtype uint8 and shape (height, width),
#: (height, width, 3 or 4).
Picture: TypeAlias = "str | os.PathLike[str] | io.BytesIO | Image | npt.NDArray[np.uint8]"

#: The formats that are opened. Pillow also reads others, such as EPS, which it passes to another program to execute.
_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_SIXTEEN_BIT = 65535
#: Larger files are not decoded again without their metadata, which takes as much memory.
_MOST_BYTES = 1 << 29


@dataclass(frozen=True)
class Preprocessing:
    """Settings of the preprocessing, which must be those of the network's training.

    Attributes
    ----------
    size : int
        Width and height of the network's input, in pixels.
    mean, std : tuple of 3 float
        Per channel, in the order of `channels`; the input is ``(pixel - mean) / std`` for pixels from 0 to 255.
    channels : {"RGB", "BGR"}
        Order of the channels.
    fit : {"stretch", "crop", "pad"}
        How a picture becomes square: resize without its aspect ratio, crop to the central square, or pad with
        background on both sides.
    background : str
        Colour under transparent pixels and of the padding, as Pillow names colours.

    Raises
    ------
    ValueError
        For an invalid value.
    TypeError
        If `size` is not an integer.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    channels: Channels = "RGB"
    fit: Fit = "stretch"
    background: str = "white"

    def __post_init__(self) -> None:
        from PIL import ImageColor

        check_count("size", self.size, 1)
        for name in ("mean", "std"):
            values = getattr(self, name)
            if len(values) != 3 or not np.isfinite(values).all():
                raise InvalidValueError(f"{name}: expected three finite numbers, one per channel, got {short(values)}.")
        if min(self.std) <= 0:
            raise InvalidValueError(f"std: expected numbers above 0, got {short(self.std)}.")
        for name, known in (("channels", get_args(Channels)), ("fit", get_args(Fit))):
            if getattr(self, name) not in known:
                raise InvalidValueError(
                    f"{name}: expected one of {', '.join(known)}, got {short(getattr(self, name))}."
                )
        try:
            ImageColor.getrgb(self.background)
        except (ValueError, AttributeError) as error:
            raise InvalidValueError(
                f"background: expected a colour such as white or #ffeedd, got {short(self.background)} ({error})."
            ) from error

    def pixels(self, picture: Picture) -> npt.NDArray[np.float32]:
        """Read a picture as input of the network.

        Parameters
        ----------
        picture : path, PIL.Image.Image or numpy.ndarray of uint8
            The picture, see `load_picture`.

        Returns
        -------
        numpy.ndarray of float32, shape (3, size, size)
            Scaled pixels.

        Raises
        ------
        OSError, ValueError and others
            As `load_picture`.
        """
        pixels = load_picture(picture, self.size, fit=self.fit, background=self.background)
        if self.channels == "BGR":
            pixels = pixels[:, :, ::-1]
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        scaled = (pixels.astype(np.float32) - mean) / std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))


def seen_box(width: int, height: int, fit: Fit) -> tuple[float, float, float, float]:
    """Return the part of a picture that becomes the network's square.

    Parameters
    ----------
    width, height : int
        Size of the picture.
    fit : {"stretch", "crop", "pad"}
        How it becomes square, see `Preprocessing`.

    Returns
    -------
    left, top, right, bottom : float
        In the picture's pixels; with padding it reaches beyond the picture.

    Examples
    --------
    >>> seen_box(40, 20, "crop"), seen_box(40, 20, "pad")
    ((10.0, 0.0, 30.0, 20.0), (0.0, -10.0, 40.0, 30.0))
    """
    if fit == "stretch":
        return 0.0, 0.0, float(width), float(height)
    side = min(width, height) if fit == "crop" else max(width, height)
    left, top = (width - side) / 2, (height - side) / 2
    return left, top, left + side, top + side


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Turn Pillow's decompression-bomb warning into an error and suppress its other warnings, in all threads."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def load_picture(
    picture: Picture, size: int, *, fit: Fit | Literal["inside"] = "stretch", background: str = "white"
) -> npt.NDArray[np.uint8]:
    """Read a picture.

    The picture is rotated by its EXIF orientation and composited with the background. Of an animation the first frame
    is read; 16-bit greys are converted to 8 bits. Other metadata are ignored, also if they are malformed or large.

    Parameters
    ----------
    picture : path, io.BytesIO, PIL.Image.Image or numpy.ndarray of uint8
        A file in one of the common formats, the contents of one, an open image, or pixels of shape (height, width) or
        (height, width, channels) with 3 channels (RGB) or 4 (RGBA). JPEG files that are much larger than `size` are
        decoded at a part of their size, which open images are not: their pixels differ a little.
    size : int
        Width and height of the result, in pixels.
    fit : {"stretch", "crop", "pad", "inside"}
        How the picture becomes square, see `Preprocessing`; ``"inside"`` keeps its shape, the longer side has `size`.
    background : str
        Colour under transparent pixels and of the padding.

    Returns
    -------
    numpy.ndarray of uint8, shape (size, size, 3)
        RGB, resized bicubically. For ``"inside"``, width or height may be smaller.

    Raises
    ------
    OSError, ValueError and others
        For a file that is missing, not a picture, damaged, or has more pixels than ``PIL.Image.MAX_IMAGE_PIXELS``.
        Pillow raises exceptions of many types for damaged files.
    """
    if not isinstance(picture, (str, os.PathLike, io.BytesIO)):
        return np.asarray(_square(_opaque(_image(picture), background), size, fit, background))
    return np.asarray(_square(_read(picture, size, background), size, fit, background))


def _read(file: str | os.PathLike[str] | io.BytesIO, size: int, background: str) -> Image:
    from PIL import Image

    if not isinstance(file, io.BytesIO) and not os.path.isfile(file) and os.path.exists(file):
        # reading a pipe, for example, could block forever
        raise IsADirectoryError("is a folder") if os.path.isdir(file) else OSError("is no regular file")
    try:
        return _decoded(file, size, background)
    except (Image.DecompressionBombError, MemoryError):
        raise
    except Exception as error:  # Pillow raises exceptions of any type for damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise
        if isinstance(file, io.BytesIO):
            plain = without_metadata(file.getvalue())
        else:
            plain = without_metadata(Path(file).read_bytes()) if os.path.getsize(file) <= _MOST_BYTES else None
        if plain is None:
            raise
        content, orientation = plain
        try:
            return _decoded(io.BytesIO(content), size, background, orientation)
        except Exception:
            raise error from None  # its cause are not the metadata


def _image(picture: Image | npt.NDArray[np.uint8]) -> Image:
    """Return an image of Pillow from one, or from checked pixels."""
    from PIL import Image

    if isinstance(picture, Image.Image):
        return picture
    if not isinstance(picture, np.ndarray):
        raise InvalidTypeError(
            f"picture: expected a path, a PIL.Image.Image or a numpy.ndarray, got a {type(picture).__name__}."
        )
    if picture.dtype != np.uint8:
        raise InvalidTypeError(
            f"picture: expected pixels of dtype uint8, 0 to 255, got {picture.dtype}. Convert values from 0 to 1: "
            "(255 * picture).round().astype(numpy.uint8)."
        )
    if picture.size == 0 or not (picture.ndim == 2 or (picture.ndim == 3 and picture.shape[2] in (3, 4))):
        raise InvalidValueError(
            f"picture: expected shape (height, width), or (height, width, 3 or 4), got {picture.shape}."
        )
    return Image.fromarray(picture)


def _opaque(picture: Image, background: str, orientation: int | None = None) -> Image:
    """Turn a picture upright and composite it with the background."""
    picture.load()  # Pillow turns some formats itself, and removes their orientation
    turned = upright(picture, orientation_of(picture) if orientation is None else orientation)
    return _on_background(_eight_bit(turned), background)


def _decoded(
    file: str | os.PathLike[str] | io.BytesIO, size: int, background: str, orientation: int | None = None
) -> Image:
    """Decode a picture, upright and opaque; its orientation is by default that of its metadata."""
    from PIL import Image

    with Image.open(file, formats=openable_formats()) as opened:
        width, height = opened.size
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(
                f"{width} x {height} pixels exceed the limit of {Image.MAX_IMAGE_PIXELS} pixels"
            )
        # decode a JPEG file at 1/8, 1/4 or 1/2 of its size if that is at least twice the target size: a photograph of
        # 12 megapixels takes a fifth of the time
        opened.draft(None, (2 * size, 2 * size))  # None: the mode stays
        return _opaque(opened, background, orientation)


def openable_formats() -> list[str]:
    """Return the accepted picture formats that this build of Pillow can open."""
    from PIL import Image

    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _eight_bit(picture: Image) -> Image:
    """Scale 16-bit greys to 8 bits; Pillow's conversion clips them at 255."""
    from PIL import Image

    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > _SIXTEEN_BIT:
        raise InvalidValueError(
            f"expected pixels of 8 or 16 bits, got mode {picture.mode}, whose white level is undefined"
        )
    return Image.fromarray((values // 257).astype(np.uint8))


def _on_background(picture: Image, background: str) -> Image:
    from PIL import Image

    if not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, background)
    ground.alpha_composite(picture.convert("RGBA"))
    return ground.convert("RGB")


def _square(picture: Image, size: int, fit: Fit | Literal["inside"], background: str) -> Image:
    from PIL import Image, ImageOps

    if fit == "crop":
        return ImageOps.fit(picture, (size, size), method=Image.Resampling.BICUBIC)
    if fit in ("pad", "inside"):
        # as ImageOps.pad, but at least one pixel wide and high
        width, height = (max(round(side / max(picture.size) * size), 1) for side in picture.size)
        resized = picture.resize((width, height), Image.Resampling.BICUBIC)
        if fit == "inside":
            return resized
        square = Image.new("RGB", (size, size), background)
        square.paste(resized, (round((size - width) / 2), round((size - height) / 2)))
        return square
    return picture.resize((size, size), Image.Resampling.BICUBIC)
