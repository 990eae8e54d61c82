"""Options that several subcommands share."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import click

from capgpu.errors import InvalidValueError

__all__ = ["LocalPath", "backend_option", "check_writable", "run_option", "use_backend_option"]

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class LocalPath(click.Path):
    """A path on this machine; an address is refused with a remedy."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; errors are those of click's."""
        if isinstance(value, str) and _URL.match(value):
            self.fail(
                f"expected a file or folder on this machine, got the address {value}. Download it (and unzip an "
                "archive), for example with curl -LO, and name the file or folder.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


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
