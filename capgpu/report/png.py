"""Names of PNG files: a picture must not be written in another format than its name says."""

from __future__ import annotations

import os
from pathlib import Path

from capgpu.errors import InvalidValueError

__all__ = ["check_png_name"]


def check_png_name(path: str | os.PathLike[str]) -> None:
    """Check that a file can be named like this and hold a PNG.

    Parameters
    ----------
    path : path
        The file.

    Raises
    ------
    ValueError
        For the suffix of another format.
    """
    suffix = Path(path).suffix
    if suffix.lower() not in ("", ".png"):
        raise InvalidValueError(
            f"{os.fspath(path)}: expected the name of a PNG file, got the suffix {suffix}. Name it "
            f"{Path(path).with_suffix('.png')}."
        )
