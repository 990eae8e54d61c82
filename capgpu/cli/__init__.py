"""The capgpu command: one module per subcommand. Importing it loads nothing heavier than NumPy and click."""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import click

from capgpu import __version__
from capgpu.cli.caption import caption
from capgpu.cli.check import check
from capgpu.cli.command import CommandContext, write_commands, write_examples
from capgpu.cli.console import echo
from capgpu.cli.evaluate import evaluate
from capgpu.cli.export import export
from capgpu.cli.info import info
from capgpu.cli.prepare import prepare
from capgpu.cli.score import score
from capgpu.cli.serve import serve
from capgpu.cli.train import train
from capgpu.cli.tune import tune
from capgpu.cli.warm import warm
from capgpu.distributed import active_communicator, communicator, launch
from capgpu.distributed.launch import take_over
from capgpu.errors import CapgpuError

__all__ = ["main"]

#: Errors that the user can correct, shown in one line: those that the library raises on purpose, and what the system
#: reports of files and memory. Any other exception is a bug and shows its traceback.
_USER_ERRORS = (CapgpuError, OSError, MemoryError)


#: The commands under their headings in the help, in the order of their use.
_COMMANDS = {
    "Data": (prepare, check),
    "Captioners": (train, caption, evaluate, serve, score, export),
    "This machine": (info, warm, tune),
}
#: The commands that divide their work among ranks. Of the others one process does the work: of all, or of each machine.
_OF_RANKS = tuple(command.name for command in (train, prepare, caption, evaluate))
_OF_MACHINES = tuple(command.name for command in _COMMANDS["This machine"])
_EXAMPLES = (
    ("Start here: train on the captioned emoji that come with capgpu (a minute)", "capgpu train runs/demo"),
    ("See captions of pictures that it has not seen, beside the true ones", "capgpu caption runs/demo"),
    ("Caption your own pictures", "capgpu caption runs/demo cat.jpg photos/"),
    ("Train on your own captioned pictures", "capgpu prepare photos/ --out data/photos"),
    ("", "capgpu train runs/photos --data data/photos"),
    ("Score a run beside a baseline", "capgpu eval runs/photos"),
)


class _UserError(click.ClickException):
    exit_code = 2


def _message(error: BaseException) -> str:
    """Return the message of an error in one line."""
    text = str(error)
    if isinstance(error, OSError) and error.strerror:  # not "[Errno 2] ..."
        name = error.filename if isinstance(error.filename, str | bytes) else ""
        text = f"{os.fsdecode(name)}: {error.strerror}" if name else error.strerror
    return " ".join(text.split()) or type(error).__name__


class _Command(click.Group):
    """The group of all subcommands: user errors are printed in one line on stderr, with exit status 2."""

    context_class = CommandContext

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the commands by heading."""
        for title, commands in _COMMANDS.items():
            write_commands(formatter, title, commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, and where to read on."""
        write_examples(formatter, _EXAMPLES)
        formatter.write_paragraph()
        formatter.write_text("capgpu COMMAND --help explains the options of a command.")

    def make_context(self, *args: Any, **extra: Any) -> click.Context:
        """Parse the arguments; with --help and --version, that prints."""
        try:
            return super().make_context(*args, **extra)
        except BrokenPipeError:
            raise
        except OSError as error:  # a full disk
            raise _UserError(_message(error)) from error

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError:  # as in `capgpu caption RUN | head -1`: click ends the command with status 1
            raise
        except (*_USER_ERRORS, click.ClickException) as error:
            if ctx.invoked_subcommand in _OF_RANKS:
                with suppress(CapgpuError):  # it may be the error itself
                    communicator()  # ranks that have got further wait for this one
            if ctx.params["debug"] or isinstance(error, click.ClickException):
                raise
            raise _UserError(_message(error)) from error

    def main(self, *args: Any, **extra: Any) -> Any:
        run: Callable[..., Any] = super().main
        if sys.stdout is None:  # closed, as by >&-: what is written to files is wanted all the same
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 # for the rest of the process
        for stream in (sys.stdout, sys.stderr):
            # replace characters that the encoding of the output cannot represent; under LC_ALL=C, Python's default is
            # surrogateescape, which replaces none
            if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
                stream.reconfigure(errors="replace")
        try:
            status = run(*args, **{**extra, "standalone_mode": False})
        except click.Abort:
            _report("interrupted")
            status = 130
        except click.ClickException as error:
            _report(f"error: {' '.join(error.format_message().split())}")  # click lists choices on lines of their own
            status = error.exit_code
        sys.exit(status)


def _report(message: str) -> None:
    """Print why the command ends; of several ranks one does, or the one that fails alone, which ends the others."""
    ranks = active_communicator()
    if ranks is None or ranks.size == 1:
        echo(f"capgpu: {message}", err=True)
    elif not ranks.failed_alike(message):
        ranks.abort(message)
    elif ranks.rank == 0:
        echo(f"capgpu: {message}", err=True)


@click.group(
    cls=_Command,
    name="capgpu",
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
    invoke_without_command=True,
)
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.version_option(__version__, "-V", "--version", prog_name="capgpu")
@click.pass_context
def main(ctx: click.Context, debug: bool) -> None:
    """Caption images with recurrent networks, on NumPy, Numba or CUDA.

    Captioners are trained on pictures with captions, into a run folder; the other commands read it. CAPGPU_BACKEND, or
    --backend of a command, says where to compute: numpy, cpu (or numba; compiled kernels), cuda (or gpu), a list in
    order of preference such as cuda,cpu, or auto, the default: the GPU where there is one.
    """
    name, place = ctx.invoked_subcommand, launch()
    if name not in _OF_RANKS and place is not None:
        if (place.local_rank if name in _OF_MACHINES else place.rank) > 0:
            ctx.exit()
        take_over(None)
    if name is None:
        echo(ctx.get_help())


for _commands in _COMMANDS.values():
    for _subcommand in _commands:
        main.add_command(_subcommand)
