"""Picture files, small enough to be shown."""

from __future__ import annotations

import os

import numpy as np
import numpy.typing as npt

__all__ = ["thumbnail"]

THUMBNAIL_SIZE = 128


def thumbnail(path: str | os.PathLike[str], size: int = THUMBNAIL_SIZE) -> npt.NDArray[np.uint8]:
    """Read a picture for display.

    Parameters
    ----------
    path : path
        A picture file of any kind that Pillow reads, of no more pixels than its limit against decompression bombs.
    size : int
        Height and width of the result, in pixels.

    Returns
    -------
    numpy.ndarray of uint8, shape (size, size, 3)
        The whole picture in RGB, its proportions kept, transparent parts and margins white.

    Raises
    ------
    ValueError
        If the file is no picture, cut short, or too large.
    OSError
        As the system gives it: no such file, no permission.
    """
    from PIL import Image, ImageOps

    with open(path, "rb") as file:
        try:
            with Image.open(file) as picture:
                picture.draft("RGB", (2 * size, 2 * size))
                whole = ImageOps.exif_transpose(picture).convert("RGBA")
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(f"{os.fspath(path)} is no picture that can be read: {error}") from error
    sheet = Image.new("RGBA", (size, size), "white")
    small = ImageOps.contain(whole, (size, size))
    sheet.alpha_composite(small, ((size - small.width) // 2, (size - small.height) // 2))
    return np.asarray(sheet.convert("RGB"))
