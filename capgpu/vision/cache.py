"""The folder for files that can be made again."""

from __future__ import annotations

import os
from pathlib import Path

__all__ = ["cache_folder"]


def cache_folder() -> Path:
    """Return the folder, made if it is missing: ``capgpu`` in ``XDG_CACHE_HOME``, or in ``~/.cache``.

    Returns
    -------
    pathlib.Path
        The folder.

    Raises
    ------
    OSError
        As the system gives it.
    """
    # a relative XDG_CACHE_HOME is to be ignored (XDG Base Directory Specification)
    told = Path(os.environ.get("XDG_CACHE_HOME", ""))
    folder = (told if told.is_absolute() else Path(os.path.expanduser("~"), ".cache")) / "capgpu"
    folder.mkdir(parents=True, exist_ok=True)
    return folder
