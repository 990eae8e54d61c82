"""CuPy's folder of compiled kernels: a folder that only this user can write.

CuPy reads ``CUPY_CACHE_DIR`` once, when it is imported, and its import fails if it cannot create the folder. Its files
are readable by their owner only, so that users of a shared folder fail on each other's files. This module checks the
folder and, if necessary, replaces it during the import; the environment is restored afterwards.

CuPy writes files atomically, and detects truncated files by a digest at their beginning and compiles again: concurrent
and killed processes are harmless.
"""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["folder", "in_memory", "provided"]

logger = logging.getLogger("capgpu")

_lock = threading.RLock()
_chosen: dict[str, str] = {}
_temporary: tempfile.TemporaryDirectory[str] | None = None


def folder() -> str:
    """Return the folder that CuPy uses.

    Returns
    -------
    str
        What was chosen when CuPy was imported. Where that was done elsewhere: ``CUPY_CACHE_DIR`` or CuPy's default.
    """
    setting = _setting()
    return _chosen.get(setting, setting)


@contextmanager
def provided() -> Iterator[None]:
    """Set ``CUPY_CACHE_DIR`` to a folder that this user can write, for an import of CuPy in a ``with`` block.

    That is ``CUPY_CACHE_DIR``, or ``~/.cupy/kernel_cache``; in it a folder of this user's own (``user-`` and the
    number) where it belongs to another user or can be written by all; where neither can be written, a temporary folder
    that lasts as long as the process, with a warning in the log.
    """
    with _lock:
        setting = _setting()
        if setting not in _chosen:
            _chosen[setting] = _choose(setting)
        with _environment("CUPY_CACHE_DIR", _chosen[setting]):
            yield


@contextmanager
def in_memory() -> Iterator[None]:
    """Turn off CuPy's folder of compiled kernels in a ``with`` block.

    CuPy reads the variable at each compilation. Another thread that compiles in the meantime does it in memory, too.
    """
    with _lock, _environment("CUPY_CACHE_IN_MEMORY", "1"):
        yield


@contextmanager
def _environment(name: str, value: str) -> Iterator[None]:
    previous = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if previous is None:
            del os.environ[name]
        else:
            os.environ[name] = previous


def _setting() -> str:
    return os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache")


def _choose(setting: str) -> str:
    global _temporary
    try:
        folder = Path(setting)
        folder.mkdir(parents=True, exist_ok=True)
        if not _is_private(folder):
            folder = folder / f"user-{os.geteuid()}"
            folder.mkdir(mode=0o700, exist_ok=True)
            if not _is_private(folder):
                raise PermissionError(f"{folder} belongs to another user")
        with tempfile.TemporaryFile(dir=folder):
            return str(folder)
    except OSError as error:
        if _temporary is None:
            _temporary = tempfile.TemporaryDirectory(prefix="capgpu-kernels-")
        logger.warning(
            "CuPy cannot keep compiled kernels in %s (%s): this process compiles them into %s, the next again. Set "
            "CUPY_CACHE_DIR to a folder that can be written.",
            setting,
            error,
            _temporary.name,
        )
        return _temporary.name


def _is_private(path: Path) -> bool:
    """Return whether a folder belongs to this user and is not writable by all."""
    if not hasattr(os, "geteuid"):
        return True
    status = path.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o002
