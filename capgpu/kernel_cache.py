"""The folder in which CuPy keeps compiled kernels: one that this user can write and shares with nobody.

CuPy reads ``CUPY_CACHE_DIR`` once, when it is imported, and its import fails where it cannot create the folder. Its
files are readable by their owner only, so that in a folder of several users each fails on the files of the others. Here
the folder is tried and, where needed, replaced for the time of the import; the environment is then as it was before.

CuPy renames complete files into place, and recognizes truncated ones by a digest at their beginning and compiles again:
processes that compile at once, and a process that was killed, do no harm.
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
    wanted = _wanted()
    return _chosen.get(wanted, wanted)


@contextmanager
def provided() -> Iterator[None]:
    """Set ``CUPY_CACHE_DIR`` to a folder that this user can write, for an import of CuPy in a ``with`` block.

    That is ``CUPY_CACHE_DIR``, or ``~/.cupy/kernel_cache``; in it a folder of this user's own (``user-`` and the
    number) where it belongs to another user or can be written by all; where neither can be written, a temporary folder
    that lasts as long as the process, with a warning in the log.
    """
    with _lock:
        wanted = _wanted()
        if wanted not in _chosen:
            _chosen[wanted] = _choose(wanted)
        with _environment("CUPY_CACHE_DIR", _chosen[wanted]):
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
    before = os.environ.get(name)
    os.environ[name] = value
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _wanted() -> str:
    return os.environ.get("CUPY_CACHE_DIR") or os.path.expanduser("~/.cupy/kernel_cache")


def _choose(wanted: str) -> str:
    global _temporary
    try:
        place = Path(wanted)
        place.mkdir(parents=True, exist_ok=True)
        if not _own(place):
            place = place / f"user-{os.geteuid()}"
            place.mkdir(mode=0o700, exist_ok=True)
            if not _own(place):
                raise PermissionError(f"{place} belongs to another user")
        with tempfile.TemporaryFile(dir=place):
            return str(place)
    except OSError as error:
        if _temporary is None:
            _temporary = tempfile.TemporaryDirectory(prefix="capgpu-kernels-")
        logger.warning(
            "CuPy cannot keep compiled kernels in %s (%s): this process compiles them for itself alone, into %s. Set "
            "CUPY_CACHE_DIR to a folder that can be written.",
            wanted,
            error,
            _temporary.name,
        )
        return _temporary.name


def _own(place: Path) -> bool:
    """Return whether a folder is this user's and nobody else can put files there."""
    if not hasattr(os, "geteuid"):
        return True
    status = place.stat()
    return status.st_uid == os.geteuid() and not status.st_mode & 0o002
