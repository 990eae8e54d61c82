"""Options that several subcommands share."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import click

__all__ = ["backend_option", "refuse_unwritable", "run_option", "use_backend_option"]

backend_option = click.option(
    "--backend",
    metavar="NAME",
    help="Where to compute, see capgpu --help.  [default: CAPGPU_BACKEND, else auto]",
)

run_option = click.option(
    "--run",
    "folder",
    type=click.Path(path_type=Path),
    required=True,
    help="A folder that capgpu train wrote.",
)


def use_backend_option(name: str | None) -> None:
    """Choose the backend now, so that one that cannot run is told before any work is done.

    Parameters
    ----------
    name : str or None
        The option's value; None leaves it to ``CAPGPU_BACKEND``.

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


def refuse_unwritable(*files: Path | None, inputs: Iterable[Path] = ()) -> None:
    """Make sure that files can be written, and that nothing is lost by it, before the work for them is done.

    Parameters
    ----------
    *files : path or None
        Values of options; None for an option that was not given.
    inputs : iterable of path
        Files that the command reads.

    Raises
    ------
    ValueError
        For a file whose folder does not exist or may not be written into, or which is a folder itself; that is read,
        too, or stands there twice.
    """
    taken = {os.path.realpath(file): f"{file} is what is read" for file in inputs}
    for file in files:
        if file is None:
            continue
        place = os.path.realpath(file)
        if place in taken and (file.is_file() or not file.exists()):
            raise ValueError(f"{taken[place]}: it would be overwritten. Name another file to write.")
        taken[place] = f"{file} is given twice"
        if not file.parent.is_dir():
            raise ValueError(f"the folder of {file} does not exist; make it first.")
        if file.is_dir():
            raise ValueError(f"{file} is a folder; wanted the name of a file.")
        # a file is replaced, a device or a pipe written into
        written = file if file.exists() and not file.is_file() else file.parent
        if not os.access(written, os.W_OK):
            raise ValueError(f"{file} cannot be written: no permission for {written}.")
