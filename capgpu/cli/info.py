"""capgpu info: installed packages, the selected backend, and why it was selected."""

from __future__ import annotations

import click

from capgpu.cli.command import Command

__all__ = ["info"]


@click.command(cls=Command, examples=(("See which backend is used, and why", "capgpu info"),))
@click.pass_context
def info(ctx: click.Context) -> None:
    """Show installed packages, the selected backend, and why it was selected.

    The exit status is 1 if no backend could be selected.
    """
    from rich.table import Table
    from rich.text import Text

    from capgpu.backend import backend_info
    from capgpu.cli.console import print_table

    info = backend_info()
    table = Table(show_header=False, box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    if info["error"] is None:
        table.add_row("backend", Text(info["backend"], style="bold green"))
        # the part after the first semicolon is repeated for each backend below
        table.add_row("why", Text(info["reason"].split("; ")[0]))
        table.add_row("device", Text(info["device"]))
        table.add_row("kernels", Text(info["kernels"]))
        if info["available"]["cpu"] == "yes":
            from capgpu.kernels.cpu.code_cache import described

            table.add_row("compiled kernels", Text(described()))
        if info["backend"] == "cuda":
            from capgpu.kernels.cuda.diagnostics import device_description

            for name, words in device_description().items():
                table.add_row(name, Text(words))
    else:
        table.add_row("backend", Text("none", style="bold red"))
        table.add_row("error", Text(info["error"]))
    for name, value in info["setting"].items():
        table.add_row(name, Text("not set" if value is None else value))
    table.add_row()
    for name, state in info["available"].items():
        usable = state == "yes"
        words = "usable" if usable else state.removeprefix(f"backend {name!r}: ")
        table.add_row(f"backend {name}", Text(words, style="green" if usable else "yellow"))
    table.add_row()
    for name, version in info["installed"].items():
        table.add_row(name, Text(version or "not installed"))
    print_table(table)
    if info["error"] is not None:
        ctx.exit(1)
