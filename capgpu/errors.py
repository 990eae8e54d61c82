"""The exceptions that the library raises on purpose.

Each derives from `CapgpuError` and from the built-in exception for its kind of error. ``except ValueError`` catches an
invalid value, ``except CapgpuError`` everything that a caller can correct; any other exception is a bug. Errors of
files (`OSError`) and of memory (`MemoryError`) that the system reports are passed on, files with their names.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager

from capgpu.visible_text import visible

__all__ = ["CapgpuError", "InvalidTypeError", "InvalidValueError", "NonFiniteError", "name_os_errors"]


class CapgpuError(Exception):
    """Base of all exceptions that the library raises on purpose.

    Messages may quote files: control characters in them are shown as escapes, see `capgpu.visible_text`.
    """

    def __str__(self) -> str:
        return visible(super().__str__())


class InvalidValueError(CapgpuError, ValueError):
    """An argument or setting has the right type but an invalid value, shape or combination."""


class InvalidTypeError(CapgpuError, TypeError):
    """An argument or setting has the wrong type or dtype."""


class NonFiniteError(CapgpuError, FloatingPointError):
    """A computation gave NaN or infinity."""


@contextmanager
def name_os_errors(path: str | os.PathLike[str], remedy: str = "") -> Iterator[None]:
    """Add the name of a file to errors of the system that lack one, such as that of a full disk during a write.

    Parameters
    ----------
    path : path
        The file that is written in the block.
    remedy : str
        What to do about a full disk, such as where else to write.
    """
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename is not None:
            raise
        full = error.errno in (errno.ENOSPC, getattr(errno, "EDQUOT", None))
        text = f"{error.strerror}. {remedy}" if full and remedy else error.strerror
        raise OSError(error.errno, text, os.fspath(path)) from error
