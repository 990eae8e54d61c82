"""capgpu check: whether a prepared folder is as it was written."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["check"]


@click.command()
@click.argument("folder", type=click.Path(path_type=Path))
def check(folder: Path) -> None:
    """Compare every file of a prepared folder with its checksum.

    Other commands read features only if their file has changed since it was last compared: an error of the disk that
    leaves no trace in the file's time and size is found here.
    """
    from capgpu.data.prepared_dataset import verify_prepared

    names = verify_prepared(folder)
    size = sum((folder / name).stat().st_size for name in names)
    click.echo(f"{folder}: {len(names)} files, {size / 1e6:,.1f} MB, all as they were written.")
