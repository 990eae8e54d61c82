"""Picture files of reports: the suffix of the name determines the format."""

from __future__ import annotations

import math
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from capgpu.checkpoint import atomic_write
from capgpu.errors import InvalidValueError

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["SUFFIXES", "check_image_name", "write_image"]

_PNG: tuple[str, dict[str, Any]] = ("PNG", {"optimize": True})
_JPEG: tuple[str, dict[str, Any]] = ("JPEG", {"quality": 90, "subsampling": 0, "optimize": True})
#: Pillow's format and its options, by suffix.
_FORMATS = {".png": _PNG, ".jpg": _JPEG, ".jpeg": _JPEG, ".webp": ("WEBP", {"quality": 90, "method": 6})}
#: The formats' limits of width and height, in pixels.
_LARGEST = {"PNG": 2**31 - 1, "JPEG": 65_500, "WEBP": 16_383}
#: The most frequent colours, which stay as they are when colours are reduced.
_N_EXACT = 16
#: The accepted suffixes, in lower case.
SUFFIXES = tuple(_FORMATS)


def check_image_name(path: str | os.PathLike[str]) -> None:
    """Check that the suffix of a file names a format that can be written.

    Parameters
    ----------
    path : path
        The file. A name without a suffix stands for PNG.

    Raises
    ------
    ValueError
        For any other suffix than those in `SUFFIXES`.
    """
    suffix = Path(path).suffix
    if suffix and suffix.lower() not in _FORMATS:
        raise InvalidValueError(
            f"{os.fspath(path)}: expected a name that ends with {', '.join(SUFFIXES[:-1])} or {SUFFIXES[-1]}, "
            f"got {suffix}. Rename it: the suffix determines the format."
        )


def write_image(path: str | os.PathLike[str], image: Image, *, drawing: bool) -> None:
    """Write a picture in the format that the suffix names, atomically.

    Parameters
    ----------
    path : path
        The file; replaced if it exists.
    image : PIL.Image.Image
        The picture, RGB.
    drawing : bool
        Whether it holds drawings and text alone: as PNG it is reduced to 256 colours, which takes a third of the bytes.

    Raises
    ------
    ValueError
        As for `check_image_name`, and for a picture that is larger than the format allows.
    OSError
        If the file cannot be written.
    """
    check_image_name(path)
    name, options = _FORMATS.get(Path(path).suffix.lower(), _PNG)
    if max(image.size) > _LARGEST[name]:
        raise InvalidValueError(
            f"{os.fspath(path)}: expected at most {_LARGEST[name]} pixels in each direction in {name}, got "
            f"{image.width} x {image.height}. Write a .png file, or fewer pictures."
        )
    with atomic_write(path) as file:
        (_few_colours(image) if drawing and name == "PNG" else image).save(file, format=name, **options)


def _few_colours(image: Image) -> Image:
    """Reduce a picture to 256 colours.

    Of contact sheets of 6 and of 18 emoji, one pixel in a thousand differs by more than 16 of 255. With Pillow's other
    methods it was 21 to 44, and rare colours turned into others.
    """
    from PIL import Image as Images

    # a ninth of the pixels has the same colours, and takes a tenth of the time
    sample = image.resize((math.ceil(image.width / 3), math.ceil(image.height / 3)), Images.Resampling.NEAREST)
    palette = sample.quantize(256, method=Images.Quantize.MAXCOVERAGE, kmeans=1).getpalette()
    colours = np.array(palette, np.int32).reshape(-1, 3)
    packed, inverse, counts = np.unique(
        np.asarray(image, np.int32) @ np.array([1 << 16, 1 << 8, 1], np.int32), return_inverse=True, return_counts=True
    )
    present = np.stack([packed >> 16, packed >> 8 & 255, packed & 255], axis=1)
    # paper, ink and other flat areas keep their colours
    for colour in present[np.argsort(counts, kind="stable")[-_N_EXACT:]]:
        colours[np.abs(colours - colour).sum(axis=1).argmin()] = colour
    # Pillow would look up the colours by their upper six bits
    squares = (colours**2).sum(axis=1)
    nearest = [(squares - 2 * part @ colours.T).argmin(axis=1) for part in np.array_split(present, 64)]
    reduced = Images.fromarray(np.concatenate(nearest).astype(np.uint8)[inverse].reshape(image.height, image.width))
    reduced.putpalette(colours.astype(np.uint8).tobytes())
    return reduced
