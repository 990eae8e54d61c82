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
    from capgpu.vision.preprocessing import load_picture, strict_pillow

    try:
        with strict_pillow():
            return load_picture(path, size, fit="pad", background="white")
    except Exception as error:  # Pillow meets damaged files with errors of any kind
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ValueError(f"{os.fspath(path)} is no picture that can be read: {error}") from error
