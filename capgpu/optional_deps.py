"""Optional dependencies: packages imported when they are needed, with an error that names the extra to install."""

from __future__ import annotations

import importlib
import importlib.metadata
import re
import shlex
from pathlib import Path
from typing import Any

from capgpu.errors import CapgpuError

__all__ = ["MissingExtraError", "MissingPackageError", "install_command", "require"]


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
            f"Install it with: {install_command(extra)}"
        ) from error


def install_command(extra: str) -> str:
    """Return the command that installs the packages of an extra, whatever this installation was made from.

    Parameters
    ----------
    extra : str
        The extra of capgpu.

    Returns
    -------
    str
        A command for a shell. It names the packages themselves: capgpu may have been installed from a checkout, an
        archive or a repository, which need not be there any more.
    """
    return shlex.join(["pip", "install", *_requirements(extra)])


def _requirements(extra: str) -> list[str]:
    """Return the requirements of an extra: those of the checkout, or else of the installation."""
    project = Path(__file__).resolve().parents[1] / "pyproject.toml"
    if project.is_file():
        import tomllib

        content = tomllib.loads(project.read_text(encoding="utf-8"))
        entries = content.get("project", {}).get("optional-dependencies", {}).get(extra, [])
        return _without_own_extras([entry.partition(";")[0].strip() for entry in entries])
    try:
        entries = importlib.metadata.requires("capgpu") or []
    except importlib.metadata.PackageNotFoundError:
        return [f"capgpu[{extra}]"]
    marker = re.compile(rf"""extra\s*==\s*["']{re.escape(extra)}["']""")
    own = [entry.partition(";")[0].strip() for entry in entries if marker.search(entry.partition(";")[2])]
    return _without_own_extras(own)


def _without_own_extras(entries: list[str]) -> list[str]:
    """Replace extras of capgpu, which no registry has, by their requirements."""
    requirements: list[str] = []
    for entry in entries:
        nested_extras = re.fullmatch(r"capgpu\[([\w,-]+)\]", entry)
        requirements += (
            [entry]
            if nested_extras is None
            else [line for name in nested_extras[1].split(",") for line in _requirements(name)]
        )
    return requirements
