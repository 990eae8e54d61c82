"""Claims decide which process compiles a kernel: one claims its cache entry, others wait or compile something else.

A claim is a lock (`flock`) on the file ``ENTRY.lock`` beside the entry::

    free --claim: locks the file--> held: compiles, writes the entry --released: unlinks, closes--> free
                                      |  the process is killed: the system unlocks the file
                                      v
    another process in `claim`:  entry exists: loads it
                                 no entry: compiles it, and from then on claims and waits no more
                                 still locked after LIMIT seconds (the holder is stopped): the same

There is no deadlock: a process waits only for entries that it needs to complete those it has claimed, and no kernel
needs itself.

The file of a killed process is removed when its parent ends, or when the next process that compiles ahead is started.

Without a process that compiles ahead (`capgpu.kernels.cpu.compile_ahead`), and other ranks on this machine, nothing is
claimed. On a file system without locks nothing is claimed either: each process compiles, and some kernels are compiled
several times.
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

__all__ = ["CAN_CLAIM", "BusyError", "claim", "claims", "released", "remove_abandoned"]

CAN_CLAIM = fcntl is not None
#: Seconds after which a process compiles an entry that another one has claimed, and seconds between two checks.
LIMIT, LOOK = 60.0, 0.005


class BusyError(Exception):
    """Another process compiles this kernel, and this process does not need it."""


class _Claims(threading.local):
    """The claims of a thread.

    Attributes
    ----------
    held : list of (int, Path)
        Descriptors and paths of the locked files.
    """

    def __init__(self) -> None:
        self.held: list[tuple[int, Path]] = []


class _Setting:
    """Whether this process claims the kernels that it compiles, and whether it skips those that others compile."""

    active = False
    passes_over = False


claims = _Setting()
_own = _Claims()


def claim(entry: Path, function: str) -> bool:
    """Claim an entry that is to be compiled; wait if another process has claimed it.

    Parameters
    ----------
    entry : Path
        The entry's file, in a folder that exists.
    function : str
        Module and name of its function.

    Returns
    -------
    bool
        Whether the entry exists now. Otherwise the caller compiles it, inside `released`.

    Raises
    ------
    BusyError
        If another process has claimed it, this process skips such entries, and it holds no claim that needs this one.
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


def remove_abandoned(folder: Path) -> None:
    """Remove the files of claims whose processes have been killed.

    A process that opens such a file at the same moment finds it locked, or locks a file that has no name any more: it
    waits, or compiles what another one compiles, too.
    """
    if not CAN_CLAIM:
        return
    for file in folder.glob("*.lock"):
        with contextlib.suppress(OSError):  # its claim has just ended
            descriptor = os.open(file, os.O_RDWR)
            try:
                if _lock(descriptor):
                    file.unlink()
            finally:
                os.close(descriptor)


def _lock(descriptor: int) -> bool | None:
    """Lock a file; return whether this process has the lock, or None if the file system has no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:  # held by another process
        return False
    except OSError:
        return None
    return True


@contextlib.contextmanager
def released() -> Iterator[None]:
    """Release the claims that were made inside this context."""
    n_outer = len(_own.held)
    try:
        yield
    finally:
        while len(_own.held) > n_outer:
            descriptor, file = _own.held.pop()
            with contextlib.suppress(OSError):
                file.unlink()
            os.close(descriptor)
