"""Optional dependencies: packages imported when they are needed, with an error that names the extra to install."""

from __future__ import annotations

import importlib
from typing import Any

from capgpu.errors import CapgpuError

__all__ = ["MissingExtraError", "MissingPackageError", "require"]


class MissingPackageError(CapgpuError, ImportError):
    """An optional package is not installed, or cannot be imported."""


class MissingExtraError(MissingPackageError):
    """A package of one of capgpu's extras is missing; the message contains the command that installs it."""


def require(module: str, extra: str, purpose: str) -> Any:
    """Import a package that is not a required dependency.

    Parameters
    ----------
    module : str
        The module.
    extra : str
        The extra of capgpu that installs it.
    purpose : str
        What the package is needed for, as the beginning of a sentence: "Reading picture files".

    Returns
    -------
    module
        The module.

    Raises
    ------
    MissingExtraError
        If the package is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"{purpose} needs the package {module}, which cannot be imported ({error}). "
            f"Install it with: pip install 'capgpu[{extra}]'"
        ) from error
