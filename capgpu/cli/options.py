"""Options that several subcommands share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click

from capgpu.errors import InvalidValueError

__all__ = ["backend_option", "check_writable", "run_option", "use_backend_option"]

backend_option = click.option(
    "--backend",
    metavar="NAME",
    help="Backend, see capgpu --help.  [default: CAPGPU_BACKEND, else auto]",
)

run_option = click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="A folder that capgpu train wrote.",
)


def use_backend_option(name: str | None) -> None:
    """Choose the backend now: an unavailable one is an error before any work is done.

    Parameters
    ----------
    name : str or None
        Value of the option; None for the backend of ``CAPGPU_BACKEND``.

    Raises
    ------
    BackendUnavailableError, ValueError
        If the backend cannot run here, or is unknown.
    """
    from capgpu.backend import current_backend, set_backend

    if name is None:
        current_backend()
    else:
        set_backend(name)


def check_writable(*files: Path | None, inputs: Iterable[Path] = ()) -> None:
    """Check that files can be written and replace no input, before any work is done.

    Parameters
    ----------
    *files : path or None
        Values of options; None for an option without a value.
    inputs : iterable of path
        Files that the command reads.

    Raises
    ------
    ValueError
        For a file in a folder that does not exist or is not writable, a folder, an input, or a file given twice.
    """
    reserved = {os.path.realpath(file): f"{file} is an input" for file in inputs}
    for file in files:
        if file is None:
            continue
        target = os.path.realpath(file)
        if target in reserved and (file.is_file() or not file.exists()):
            raise InvalidValueError(f"{reserved[target]}: it would be overwritten. Name another file to write.")
        reserved[target] = f"{file} is given twice"
        if not file.parent.is_dir():
            raise InvalidValueError(f"{file}: expected a file in an existing folder. Create {file.parent} first.")
        if file.is_dir():
            raise InvalidValueError(f"{file}: expected the name of a file, got a folder.")
        # a file is replaced, a device or a pipe is written to
        written = file if file.exists() and not file.is_file() else file.parent
        if not os.access(written, os.W_OK):
            raise InvalidValueError(f"{file}: expected permission to write to {written}.")
