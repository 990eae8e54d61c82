"""A picture file as a network wants it: upright, opaque, RGB or BGR, square, scaled."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import numpy.typing as npt

from capgpu.validation import check_count

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["Preprocessing", "load_picture", "strict_pillow"]

Fit = Literal["stretch", "crop", "pad"]
Channels = Literal["RGB", "BGR"]

#: What is opened. Pillow knows more, among them EPS, which it hands to another program to execute.
_FORMATS = ("AVIF", "BMP", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
_ORIENTATION = 0x0112
_SIXTEEN_BIT = 65535


@dataclass(frozen=True)
class Preprocessing:
    """How pixels are prepared: a network's features mean something only for pictures prepared as in its training.

    Attributes
    ----------
    size : int
        Width and height of the network's input, in pixels.
    mean, std : tuple of 3 float
        Of the channels in their order; the network gets ``(pixel - mean) / std``, pixels from 0 to 255.
    channels : {"RGB", "BGR"}
        The order of the channels.
    fit : {"stretch", "crop", "pad"}
        What becomes of a picture that is not square: its proportions are given up, what lies outside of the middle
        square is cut off, or background is added on both sides.
    background : str
        The colour under transparent pixels and beside padded pictures, as Pillow names colours.

    Raises
    ------
    ValueError
        For a value that is none of these.
    TypeError
        For a size that is no whole number.
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
                raise ValueError(f"{name} is {values!r}; wanted three finite numbers, one a channel.")
        if min(self.std) <= 0:
            raise ValueError(f"std is {self.std!r}; wanted numbers above 0.")
        for name, known in (("channels", get_args(Channels)), ("fit", get_args(Fit))):
            if getattr(self, name) not in known:
                raise ValueError(f"{name} is {getattr(self, name)!r}; wanted one of {', '.join(known)}.")
        try:
            ImageColor.getrgb(self.background)
        except (ValueError, AttributeError) as error:
            raise ValueError(
                f"background is {self.background!r}; wanted a colour such as white or #ffeedd ({error})."
            ) from error

    def pixels(self, path: str | os.PathLike[str]) -> npt.NDArray[np.float32]:
        """Read a picture as the network's input.

        Parameters
        ----------
        path : path
            The file.

        Returns
        -------
        numpy.ndarray of float32, shape (3, size, size)
            Scaled pixels.

        Raises
        ------
        OSError, ValueError and others
            As `load_picture`.
        """
        pixels = load_picture(path, self.size, fit=self.fit, background=self.background)
        if self.channels == "BGR":
            pixels = pixels[:, :, ::-1]
        mean, std = (np.array(values, np.float32) for values in (self.mean, self.std))
        scaled = (pixels.astype(np.float32) - mean) / std
        return np.ascontiguousarray(scaled.transpose(2, 0, 1))


@contextmanager
def strict_pillow() -> Iterator[None]:
    """Make Pillow's warning about decompression bombs an error, and silence its others, for all threads."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        yield


def load_picture(
    path: str | os.PathLike[str], size: int, *, fit: Fit = "stretch", background: str = "white"
) -> npt.NDArray[np.uint8]:
    """Read a picture file.

    The picture is turned as its EXIF data say and laid on the background where it is transparent. Of an animation
    the first frame is taken; 16-bit greys are brought to 8 bits.

    Parameters
    ----------
    path : path
        A file in one of the common formats.
    size : int
        Width and height of the result, in pixels.
    fit : {"stretch", "crop", "pad"}
        What becomes of a picture that is not square, see `Preprocessing`.
    background : str
        The colour under transparent pixels and beside padded pictures.

    Returns
    -------
    numpy.ndarray of uint8, shape (size, size, 3)
        RGB, bicubically scaled.

    Raises
    ------
    OSError, ValueError and others
        For a file that is missing, is no picture, is damaged, or has more pixels than Pillow's limit
        ``PIL.Image.MAX_IMAGE_PIXELS``. Pillow raises many kinds for damaged files.
    """
    from PIL import Image

    if not os.path.isfile(path) and os.path.exists(path):
        # a pipe, say, would keep its reader waiting for ever
        raise IsADirectoryError("is a folder") if os.path.isdir(path) else OSError("is no regular file")
    with Image.open(path, formats=_openable()) as opened:
        width, height = opened.size
        if Image.MAX_IMAGE_PIXELS is not None and width * height > Image.MAX_IMAGE_PIXELS:
            raise Image.DecompressionBombError(
                f"{width} x {height} pixels exceed the limit of {Image.MAX_IMAGE_PIXELS} pixels"
            )
        # a JPEG file is decoded at an eighth, a quarter or half of its size while that is twice what is wanted: a
        # photograph of 12 megapixels takes a fifth of the time
        opened.draft(None, (2 * size, 2 * size))  # None: the mode stays
        upright = _upright(opened)
        picture = _on_background(_eight_bit(upright), background)
    return np.asarray(_square(picture, size, fit, background))


def _openable() -> list[str]:
    """List the formats that this build of Pillow can open."""
    from PIL import Image

    Image.init()
    return [name for name in _FORMATS if name in Image.OPEN]


def _upright(picture: Image) -> Image:
    from PIL import ImageOps

    return ImageOps.exif_transpose(picture) if picture.getexif().get(_ORIENTATION, 1) != 1 else picture


def _eight_bit(picture: Image) -> Image:
    """Scale wide greys: Pillow's own conversion cuts them off at 255."""
    from PIL import Image

    if not picture.mode.startswith(("I", "F")):
        return picture
    values = np.asarray(picture)
    if picture.mode == "F" or values.min() < 0 or values.max() > _SIXTEEN_BIT:
        raise ValueError(f"pixels of mode {picture.mode} have no range that says what is white; wanted 8 or 16 bits")
    return Image.fromarray((values // 257).astype(np.uint8))


def _on_background(picture: Image, background: str) -> Image:
    from PIL import Image

    if not picture.has_transparency_data:
        return picture.convert("RGB")
    ground = Image.new("RGBA", picture.size, background)
    ground.alpha_composite(picture.convert("RGBA"))
    return ground.convert("RGB")


def _square(picture: Image, size: int, fit: Fit, background: str) -> Image:
    from PIL import Image, ImageOps

    if fit == "crop":
        return ImageOps.fit(picture, (size, size), method=Image.Resampling.BICUBIC)
    if fit == "pad":
        # as ImageOps.pad, but of a picture as thin as a thread something is left
        width, height = (max(round(side / max(picture.size) * size), 1) for side in picture.size)
        square = Image.new("RGB", (size, size), background)
        place = (round((size - width) / 2), round((size - height) / 2))
        square.paste(picture.resize((width, height), Image.Resampling.BICUBIC), place)
        return square
    return picture.resize((size, size), Image.Resampling.BICUBIC)
