"""capgpu tune: measure the algorithms of a recurrence on this GPU, and store the fastest."""

from __future__ import annotations

import click

from capgpu.cli.command import Command
from capgpu.cli.console import echo
from capgpu.cli.options import Count
from capgpu.kernels.cells import CELLS

__all__ = ["tune"]


@click.command(cls=Command, examples=(("Tune the default model of capgpu train", "capgpu tune --hidden 256"),))
@click.option("--cell", type=click.Choice(list(CELLS)), default="lstm", help="Recurrent cell.")
@click.option("--hidden", "H", type=Count(1), default=512, help="Size of the hidden state.")
@click.option("--batch-size", "N", type=Count(1), default=64, help="Captions per minibatch.")
@click.option("--steps", "T", type=Count(2), default=16, help="Words per caption.")
@click.option(
    "--dtype",
    type=click.Choice(["float32", "float64", "float16", "bfloat16"]),
    default="float32",
    help="Element type of the model.",
)
@click.option("--repeats", type=Count(1), default=20, help="Timed passes per algorithm.")
def tune(cell: str, H: int, N: int, T: int, dtype: str, repeats: int) -> None:
    """Measure the algorithms of the recurrence on this GPU and store the fastest.

    Without a stored measurement for its shape, a recurrence uses heuristics. Measurements are stored by device, cell,
    dtype, hidden units and captions, in capgpu/tuning.json of the user's cache folder (XDG_CACHE_HOME).
    """
    from rich.table import Table

    from capgpu.array_libraries import WITHOUT_GPU
    from capgpu.backend import BackendUnavailableError, set_backend
    from capgpu.cli.console import print_table

    try:
        set_backend("cuda")
    except BackendUnavailableError as error:
        # another backend, as the message proposes, cannot be tuned
        nothing = "without a GPU there is nothing to tune: the kernels of other backends have no alternatives"
        raise BackendUnavailableError(str(error).replace(WITHOUT_GPU, nothing)) from error
    from capgpu.kernels.cuda import tuning

    measured = tuning.measure(cell, dtype, H, N, T, repeats)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for heading in ("pass", "algorithm", "units a block", "blocks", "milliseconds"):
        table.add_column(heading, justify="left" if heading in ("pass", "algorithm") else "right")
    for entry in measured:
        config = entry.config
        laid_out = config.algorithm == "persistent"
        table.add_row(
            entry.name,
            config.algorithm,
            str(config.units) if config.units else "",
            str(config.grid) if laid_out else "",
            f"{entry.milliseconds:.3f}{'' if entry.queued else ' *'}",
        )
    print_table(table)
    if not all(entry.queued for entry in measured):
        echo("* includes time of the host: the device was idle before the work was launched")
    path = tuning.store(measured, dtype, H, N)
    if path is not None:
        echo(f"stored the fastest in {path}")
