"""capgpu check: verify the checksums of a prepared folder."""

from __future__ import annotations

from pathlib import Path

import click

from capgpu.cli.command import Command
from capgpu.cli.console import echo

__all__ = ["check"]


@click.command(cls=Command, examples=(("Verify a prepared folder", "capgpu check data/photos"),))
@click.argument("folder", type=click.Path(path_type=Path))
def check(folder: Path) -> None:
    """Compare every file of a prepared folder with its checksum.

    Other commands verify feature files only if their size or modification time has changed. This command also detects
    disk errors that change neither.
    """
    from capgpu.data.prepared_dataset import verify_prepared
    from capgpu.folder_lock import folder_lock

    with folder_lock(folder, shared=True):
        names = verify_prepared(folder)
    size = sum((folder / name).stat().st_size for name in names)
    echo(f"{folder}: {len(names)} files, {size / 1e6:,.1f} MB, all checksums match.")
