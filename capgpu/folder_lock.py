"""A lock on a folder, so that two processes do not write the same run or the same data set."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from capgpu.errors import InvalidValueError

__all__ = ["folder_lock"]


@contextmanager
def folder_lock(folder: Path) -> Iterator[None]:
    """Lock a folder against other processes, inside a ``with`` block.

    The lock is the operating system's, on the folder itself: it leaves no file, and ends with the process, however that
    ends. Where the system or the file system has no such locks (Windows, some network file systems), nothing is locked.

    Parameters
    ----------
    folder : path
        Created if it is missing; removed again, with its parents, if it was created here and is still empty at the end.

    Raises
    ------
    ValueError
        If another process holds the lock.
    """
    created = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with _locked(folder):
            yield
    finally:
        for path in created:
            with contextlib.suppress(OSError):
                path.rmdir()


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    try:
        import fcntl
    except ModuleNotFoundError:  # Windows
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise InvalidValueError(
                f"{folder}: expected a folder that no other process writes, got one in use. Wait for it, stop it, "
                "or name another folder."
            ) from error
        except OSError:
            pass  # a file system without locks
        yield
    finally:
        os.close(descriptor)
