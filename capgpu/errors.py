"""The exceptions that the library raises on purpose.

Each derives from `CapgpuError` and from the built-in exception for its kind of error. ``except ValueError`` catches an
invalid value, ``except CapgpuError`` everything that a caller can correct; any other exception is a bug. Errors of
files (`OSError`) and of memory (`MemoryError`) that the system reports are passed on unchanged.
"""

from __future__ import annotations

__all__ = ["CapgpuError", "InvalidTypeError", "InvalidValueError", "NonFiniteError"]


class CapgpuError(Exception):
    """Base of all exceptions that the library raises on purpose."""


class InvalidValueError(CapgpuError, ValueError):
    """An argument or setting has the right type but an invalid value, shape or combination."""


class InvalidTypeError(CapgpuError, TypeError):
    """An argument or setting has the wrong type or dtype."""


class NonFiniteError(CapgpuError, FloatingPointError):
    """A computation gave NaN or infinity."""
