"""capgpu warm: compile the kernels of the host before they are needed."""

from __future__ import annotations

import click

__all__ = ["warm"]


@click.command()
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64"]),
    default="float32",
    help="Element type of the models that will be used.",
)
def warm(dtype: str) -> None:
    """Compile all kernels of the backend cpu, and keep them on disk.

    Otherwise each is compiled at the first call that needs it. Compiled kernels are kept until the version of capgpu,
    Python, NumPy, Numba or llvmlite changes, in the folder that is shown (NUMBA_CACHE_DIR, or XDG_CACHE_HOME).
    """
    from capgpu.warm import warm as compile_all

    seconds = compile_all(dtype)
    from capgpu.kernels.cpu.code_cache import described

    click.echo(f"Ready after {seconds:.1f} s. Compiled kernels are in {described()}.")
