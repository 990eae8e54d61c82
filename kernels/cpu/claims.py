"""Which process compiles what: one claims an entry of the cache, others wait for it or compile something else.

A claim is a lock (`flock`) on a file beside the entry. The system gives it up when the process ends, however that ends:
who waits then finds no entry, compiles it itself, and waits for no other. Waiting is limited all the same, since a
process can be stopped.

No processes wait for each other in a circle. A process waits only for what it needs to complete what it has claimed,
and no kernel needs itself.

Without a process that compiles ahead (`capgpu.kernels.cpu.compile_ahead`) nothing is claimed. On a file system without
locks nothing is, either: both processes compile, and some kernels twice.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from capgpu.kernels.cpu.compile_notice import notice

try:
    import fcntl
except ImportError:  # not a POSIX system
    fcntl = None  # type: ignore[assignment]  # mypy knows the module only where it is

__all__ = ["CAN_CLAIM", "BusyError", "claim", "claims", "released"]

CAN_CLAIM = fcntl is not None
#: Seconds after which a process compiles what another one has claimed, and between two looks.
LIMIT, LOOK = 60.0, 0.005


class BusyError(Exception):
    """Another process compiles this, and nobody needs it here."""


class _Claims(threading.local):
    """The claims of a thread.

    Attributes
    ----------
    held : list of (int, Path)
        Descriptors and names of the locked files.
    """

    def __init__(self) -> None:
        self.held: list[tuple[int, Path]] = []


class _Setting:
    """Whether this process claims what it compiles, and whether it passes over what others compile."""

    active = False
    passes_over = False


claims = _Setting()
_own = _Claims()


def claim(entry: Path, function: str) -> bool:
    """Claim an entry that is to be compiled; wait where another process has claimed it.

    Parameters
    ----------
    entry : Path
        The entry's file, in a folder that exists.
    function : str
        Module and name of what it holds.

    Returns
    -------
    bool
        Whether the entry is there now. Otherwise the caller compiles it, within `released`.

    Raises
    ------
    BusyError
        If another process has claimed it, this one passes over such entries, and holds no claim that it is needed for.
    """
    if not claims.active or not CAN_CLAIM:
        return False
    file = entry.with_suffix(".lock")
    try:
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT, 0o600)
    except OSError:  # nothing can be written there: each process compiles for itself
        return False
    try:
        locked = _lock(descriptor)
        if locked is None:
            return False
        if not locked:
            if claims.passes_over and not _own.held:
                raise BusyError(function)
            with notice.waiting(function.rpartition(".")[0].rpartition(".")[2]):
                end = time.monotonic() + LIMIT
                while not _lock(descriptor) and time.monotonic() < end:
                    time.sleep(LOOK)
            if not entry.exists() and not claims.passes_over:
                claims.active = False  # the other process has ended, has been stopped, or cannot write
        _own.held.append((descriptor, file))
        descriptor = -1
    finally:
        if descriptor >= 0:
            os.close(descriptor)
    return entry.exists()


def _lock(descriptor: int) -> bool | None:
    """Return whether a file is locked by this process now; None where its file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # held by another process
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Give up the claims of this context at its end."""
    n_outer = len(_own.held)
    try:
        yield
    finally:
        while len(_own.held) > n_outer:
            descriptor, file = _own.held.pop()
            with contextlib.suppress(OSError):
                file.unlink()
            os.close(descriptor)
