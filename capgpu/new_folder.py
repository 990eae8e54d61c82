"""Creation of folders for output."""

from __future__ import annotations

import errno
import os
from pathlib import Path

__all__ = ["create_folder"]


def create_folder(folder: Path) -> None:
    """Create a folder, and its parents, unless they exist.

    Parameters
    ----------
    folder : path
        The folder.

    Raises
    ------
    OSError
        If it cannot be created; with the cause where the system says only that something exists there: a file, or a
        link to something that does not exist.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except FileExistsError as error:
        place = next((path for path in (folder, *folder.parents) if os.path.lexists(path)), folder)
        found = "a file"
        if place.is_symlink() and not place.exists():
            found = f"a link to {os.readlink(place)}, which does not exist. Create that folder, or remove the link"
        raise FileExistsError(errno.EEXIST, f"expected a folder, got {found}", os.fspath(place)) from error
