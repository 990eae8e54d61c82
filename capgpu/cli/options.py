"""Options that several subcommands share."""

from __future__ import annotations

import functools
import math
import os
import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from capgpu.errors import InvalidValueError

__all__ = [
    "COMPUTE_GROUP",
    "Count",
    "LocalPath",
    "Number",
    "backend_option",
    "check_writable",
    "ensemble_option",
    "run_argument",
    "run_folder",
    "run_option",
    "use_backend_option",
]

#: The heading in the help of the options that `backend_option` adds, and the options.
COMPUTE_GROUP = {"Where to compute": ("--backend", "--threads")}
#: Folder where capgpu train writes runs by default.
_RUNS = Path("runs")
_N_RUNS_SHOWN = 5
#: A run with a larger seed could not be resumed.
_LARGEST_COUNT = 2**63 - 1

_URL = re.compile(r"[a-z][a-z0-9+.-]+://", re.IGNORECASE)


class LocalPath(click.Path):
    """A path on this machine; an address is refused with a remedy, and so is an empty text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the path; errors are those of click's."""
        if value == "":  # such as an unset variable of the shell; pathlib takes it for the current folder
            self.fail("expected a path, got an empty text.", param, ctx)
        if isinstance(value, str) and _URL.match(value):
            self.fail(
                f"expected a file or folder on this machine, got the address {value}. Download it (and unzip an "
                "archive), for example with curl -LO, and name the file or folder.",
                param,
                ctx,
            )
        return super().convert(value, param, ctx)


class Count(click.IntRange):
    """An integer, at least `min`."""

    name = "N"

    def __init__(self, min: int = 1, max: int | None = None) -> None:
        super().__init__(min, max)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Return the number; errors are those of click's."""
        number = int(super().convert(value, param, ctx))
        if number > _LARGEST_COUNT:
            self.fail(f"expected at most {_LARGEST_COUNT}, which the files of a run can hold, got {value}.", param, ctx)
        return number


class Number(click.FloatRange):
    """A finite number of a range; click's range includes NaN and infinity."""

    name = "X"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Return the number; errors are those of click's."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"expected a finite number, got {value}.", param, ctx)
        return number


def _set_threads(ctx: click.Context, param: click.Parameter, count: int | None) -> None:
    if count is not None:
        os.environ["CAPGPU_THREADS"] = str(count)


def backend_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--backend``, which the command receives, and ``--threads``, which sets ``CAPGPU_THREADS``.

    Parameters
    ----------
    command : callable
        The function of a click command.

    Returns
    -------
    callable
        The function with the options.
    """
    threads = click.option(
        "--threads",
        type=Count(),
        expose_value=False,
        callback=_set_threads,
        help="Threads of the CPU, also for reading pictures.  [default: CAPGPU_THREADS, else the first number of "
        "OMP_NUM_THREADS, else all processors]",
    )
    backend = click.option(
        "--backend",
        metavar="NAME",
        help="numpy, cpu, cuda or auto, or several in order of preference: cuda,cpu.  [default: CAPGPU_BACKEND, else "
        "auto]",
    )
    return backend(threads(command))


ensemble_option = click.option(
    "--ensemble",
    multiple=True,
    type=LocalPath(path_type=Path),
    metavar="RUN",
    help="Another run: words are chosen by the mean of the runs' probabilities. May be given several times.",
)

run_option = click.option(
    "--run",
    "run_option",
    type=LocalPath(path_type=Path),
    metavar="RUN",
    help="The run folder, instead of the first argument.",
)


def run_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the argument RUN, a folder that ``capgpu train`` wrote, to a command, which receives it as ``folder``.

    Parameters
    ----------
    command : callable
        The function of a click command.

    Returns
    -------
    callable
        The function with the argument, and with ``--run``, which names the folder as well.
    """

    @functools.wraps(command)
    def decorated(*args: Any, run_argument: Path | None, run_option: Path | None, **options: Any) -> Any:
        if run_argument is not None and run_option is not None:
            raise click.UsageError(f"expected one run folder, got {run_argument} and --run {run_option}.")
        return command(*args, folder=run_folder(run_argument or run_option), **options)

    argument = click.argument("run_argument", type=LocalPath(path_type=Path), required=False, metavar="RUN")
    return argument(run_option(decorated))


def run_folder(path: Path | None) -> Path:
    """Return the run folder that the user named.

    Parameters
    ----------
    path : path or None
        What was named.

    Returns
    -------
    path
        The same.

    Raises
    ------
    click.UsageError
        If nothing was named, or a file; with the run folders under ``runs/``.
    """
    if path is not None and not path.is_file():
        return path
    given = "none" if path is None else f"the file {path}"
    runs = sorted(folder.parent for folder in _RUNS.glob("*/config.json"))[:_N_RUNS_SHOWN]
    known = f"There are: {', '.join(map(str, runs))}." if runs else "capgpu train writes one."
    raise click.UsageError(f"expected a run folder as the first argument, got {given}. {known}")


def use_backend_option(name: str | None) -> None:
    """Choose the backend and its kernels now: unavailable ones are an error before any work is done.

    Parameters
    ----------
    name : str or None
        Value of the option; None for the backend of ``CAPGPU_BACKEND``.

    Raises
    ------
    BackendUnavailableError, ValueError
        If the backend cannot run here, or it or the value of ``CAPGPU_KERNELS`` is unknown.
    """
    from capgpu.backend import current_backend, kernels_setting, set_backend

    kernels_setting()
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
        if str(file) == "-":  # which means standard output elsewhere
            raise InvalidValueError("-: expected the name of a file to write.")
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
