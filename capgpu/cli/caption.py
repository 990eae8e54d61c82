"""capgpu caption: what a trained model writes, for picture files or beside the truth."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capgpu.cli.decoding import decoding_options
from capgpu.cli.options import backend_option, refuse_unwritable, run_option, use_backend_option
from capgpu.cli.picture_captions import caption_files
from capgpu.data.datasets import open_dataset
from capgpu.training.run_folder import RunFolder

if TYPE_CHECKING:
    from capgpu.decode import Decoding

__all__ = ["caption"]


class _Indices(click.ParamType):  # type: ignore[type-arg] # generic from click 8.3 on
    name = "I,J,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            return [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"{value!r} is no list of whole numbers such as 0,5,17.", param, ctx)


@click.command()
@click.argument("pictures", nargs=-1, type=click.Path(path_type=Path), metavar="[PICTURE]...")
@run_option
@click.option("--json", "json_file", metavar="FILE", help="Write the captions of PICTUREs here; - is standard output.")
@click.option("--split", default="test", help="Without PICTURE: train, val, test or unseen.")
@click.option("--count", type=click.IntRange(min=1), default=20, help="Pictures, spread evenly over the split.")
@click.option("--indices", type=_Indices(), help="These pictures instead.")
@decoding_options
@backend_option
@click.pass_context
def caption(
    ctx: click.Context,
    pictures: tuple[Path, ...],
    folder: Path,
    json_file: str | None,
    split: str,
    count: int,
    indices: list[int] | None,
    decoding: Decoding,
    backend: str | None,
) -> None:
    """Caption picture files, or pictures of a split with the truth beside.

    For each PICTURE, a file in any common format, the caption is printed with the probability that the model gives
    it. A file that cannot be read is told on standard error and skipped; the exit status is then 1, and 2 if no file
    could be read.
    """
    if pictures:
        _refuse_with_pictures(ctx)
        run = RunFolder(folder)
        refuse_unwritable(None if json_file in (None, "-") else Path(json_file), inputs=(*pictures, *run.files()))
        use_backend_option(backend)
        ctx.exit(caption_files(run, pictures, decoding, json_file))
    if json_file is not None:
        raise click.UsageError("--json is for captions of PICTUREs; capgpu eval --json judges those of a split.")
    _caption_split(RunFolder(folder), split, count, indices, decoding, backend)


def _refuse_with_pictures(ctx: click.Context) -> None:
    for name in ("split", "count", "indices"):
        if ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"--{name} chooses pictures of a data set: leave it out, or the PICTUREs.")


def _caption_split(
    run: RunFolder, split: str, count: int, indices: list[int] | None, decoding: Decoding, backend: str | None
) -> None:
    from rich.table import Table
    from rich.text import Text

    from capgpu.cli.console import console
    from capgpu.cli.judge import mark, spread, verdict
    from capgpu.evaluation.captioning import write_captions

    settings = run.settings()
    use_backend_option(backend)
    dataset = open_dataset(settings["data"])
    features, truths = dataset.features(split), dataset.truths(split)
    if indices is None:
        indices = spread(len(features), count)
    for index in indices:
        if not 0 <= index < len(features):
            raise ValueError(f"--indices: {split} has the pictures 0 to {len(features) - 1}, got {index}.")
    model = run.load(dataset)
    captions = [caption.text for caption in write_captions(model, features[indices], decoding)]
    note = dataset.notes.get(split)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("caption", "truth"):
        table.add_column(heading, overflow="fold", ratio=1)
    table.add_column("picture", justify="right")
    for index, text in zip(indices, captions, strict=True):
        sign, style = mark(verdict(text, truths[index], dataset.base_name))
        table.add_row(Text(sign, style), Text(text, style), Text(next(iter(truths[index]), "none")), str(index))
    out = console()
    out.print(f"{split}: {note}" if note else split, style="bold")
    out.print(table)
