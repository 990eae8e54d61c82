"""Thumbnails of picture files."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import numpy.typing as npt

from capgpu.errors import InvalidValueError

__all__ = ["thumbnail"]

THUMBNAIL_SIZE = 128


def thumbnail(
    path: str | os.PathLike[str], size: int = THUMBNAIL_SIZE, *, fit: Literal["pad", "inside"] = "pad"
) -> npt.NDArray[np.uint8]:
    """Read a picture as a thumbnail.

    Parameters
    ----------
    path : path
        A picture file in one of the common formats, with at most ``PIL.Image.MAX_IMAGE_PIXELS`` pixels.
    size : int
        Height and width of the result, in pixels.
    fit : {"pad", "inside"}
        Whether white is added to make it square, or its longer side has `size`.

    Returns
    -------
    numpy.ndarray of uint8, shape (size, size, 3)
        The picture in RGB with its aspect ratio, on a white background. For ``"inside"``, width or height may be
        smaller.

    Raises
    ------
    ValueError
        If the file is not a picture, truncated, or too large.
    OSError
        If the file cannot be read.
    """
    from capgpu.vision.preprocessing import load_picture, strict_pillow

    try:
        with strict_pillow():
            return load_picture(path, size, fit=fit, background="white")
    except Exception as error:  # Pillow raises exceptions of any type for damaged files
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise InvalidValueError(f"{os.fspath(path)}: expected a readable picture, got: {error}") from error
