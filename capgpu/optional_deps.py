"""Packages that only some parts of the library need: imported when they are, with an error that names the extra."""

from __future__ import annotations

import importlib
from typing import Any

__all__ = ["MissingExtraError", "require"]


class MissingExtraError(ImportError):
    """A package that an extra of capgpu installs is not there; the message gives the command."""


def require(module: str, extra: str, purpose: str) -> Any:
    """Import a package that the plain installation does not bring.

    Parameters
    ----------
    module : str
        The module.
    extra : str
        The extra of capgpu that installs it.
    purpose : str
        What it is needed for, as the beginning of a sentence: "Reading picture files".

    Returns
    -------
    module
        The module.

    Raises
    ------
    MissingExtraError
        If it is not installed, or does not import.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {module}, which cannot be imported ({error}). "
            f"Install it with: pip install 'capgpu[{extra}]'"
        ) from error
