"""capgpu warm: compile the CPU kernels in advance."""

from __future__ import annotations

import click

from capgpu.cli.command import Command
from capgpu.cli.console import echo

__all__ = ["warm"]


@click.command(cls=Command, examples=(("Compile now what the first training step needs", "capgpu warm"),))
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    help="Dtype of the models.",
)
def warm(dtype: str) -> None:
    """Compile all kernels of the backend cpu, and store them on disk.

    Otherwise each kernel is compiled at its first call, some of them by a second process
    (CAPGPU_COMPILE_AHEAD=0 turns it off). Compiled kernels are valid until the version of capgpu, Python,
    NumPy, Numba or llvmlite changes. Their folder (NUMBA_CACHE_DIR, or XDG_CACHE_HOME) is shown.
    """
    from capgpu.warm import warm as compile_all

    seconds = compile_all(dtype)
    from capgpu.kernels.cpu.code_cache import described

    echo(f"Ready after {seconds:.1f} s. Compiled kernels are in {described()}.")
