"""The user's cache folder: files that can be made again."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the folder of this library in the user's cache, whether or not it exists.

    Returns
    -------
    pathlib.Path
        ``capgpu`` in ``XDG_CACHE_HOME``, or in ``~/.cache``; ``capgpu-UID`` in the folder of temporary files for a user
        without a home, as containers have them.
    """
    # a relative XDG_CACHE_HOME must be ignored (XDG Base Directory Specification)
    base = Path(os.environ.get("XDG_CACHE_HOME", ""))
    if not base.is_absolute():
        base = Path(os.path.expanduser("~"), ".cache")
    if base.is_absolute():
        return base / "capgpu"
    # without HOME, and without an entry in the list of users, "~" stays what it is: a folder of that name
    return Path(tempfile.gettempdir(), f"capgpu-{os.geteuid()}" if hasattr(os, "geteuid") else "capgpu")
