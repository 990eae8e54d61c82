"""The user's cache folder: files that can be made again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the folder of this library in the user's cache, whether or not it exists.

    Returns
    -------
    pathlib.Path
        ``capgpu`` in ``XDG_CACHE_HOME``, or in ``~/.cache``.
    """
    # a relative XDG_CACHE_HOME must be ignored (XDG Base Directory Specification)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (base if base.is_absolute() else Path(os.path.expanduser("~"), ".cache")) / "capgpu"
