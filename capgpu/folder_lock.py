"""Locks against other processes: on a folder that one process writes, and on open files.

They are the operating system's: they leave no file, and end with the process, however that ends. Where the system or
the file system has no such locks (Windows, some network file systems), nothing is locked.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capgpu.errors import InvalidValueError
from capgpu.new_folder import create_folder

__all__ = ["folder_lock", "is_at", "lock_file"]


@contextmanager
def folder_lock(folder: Path, *, shared: bool = False) -> Iterator[None]:
    """Lock a folder against other processes, inside a ``with`` block.

    Parameters
    ----------
    folder : path
        Created if it is missing, unless `shared`; removed again, with its parents, if it was created here and is still
        empty at the end.
    shared : bool
        Whether the folder is only read: other processes may then read it, too.

    Raises
    ------
    ValueError
        If another process holds the lock, or `folder` is a file.
    """
    if shared and not folder.is_dir():
        yield
        return
    if folder.exists() and not folder.is_dir():
        raise InvalidValueError(f"{folder}: expected a folder, got a file.")
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    descriptor = _locked(folder, shared)
    try:
        try:
            yield
        finally:
            # while the lock is held: without it, the folder may be that of another process
            for path in created:
                with contextlib.suppress(OSError):
                    path.rmdir()
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _locked(folder: Path, shared: bool) -> int | None:
    """Return the descriptor of a locked folder, which is created if it is missing; None on Windows."""
    while True:
        create_folder(folder)
        if os.name == "nt":  # has no descriptors of folders
            return None
        descriptor = os.open(folder, os.O_RDONLY)
        if lock_file(descriptor, shared=shared) is False:
            os.close(descriptor)
            raise InvalidValueError(
                f"{folder}: expected a folder that no other process writes, got one in use. Wait for it, stop it, "
                "or name another folder."
            )
        if is_at(folder, descriptor):
            return descriptor
        os.close(descriptor)  # another process has just removed the folder, which it had created


def is_at(path: Path, descriptor: int) -> bool:
    """Return whether an open file or folder is still the one at a path."""
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def lock_file(descriptor: int, *, shared: bool = False) -> bool | None:
    """Lock an open file until it is closed.

    Parameters
    ----------
    descriptor : int
        Of a file or a folder.
    shared : bool
        Whether other processes may hold such a lock at the same time.

    Returns
    -------
    bool or None
        False if another process holds the lock; None where there are no locks.
    """
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        return None
    try:
        fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a file system without locks
        return None
    return True
