"""capgpu caption: caption picture files, or pictures of a split beside their true captions."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capgpu.checkpoint import atomic_write
from capgpu.cli.command import Command, config_option
from capgpu.cli.console import echo
from capgpu.cli.generation_options import GENERATION_GROUPS, generation_options
from capgpu.cli.options import (
    COMPUTE_GROUP,
    Count,
    LocalPath,
    backend_option,
    check_writable,
    ensemble_option,
    run_folder,
    run_option,
    use_backend_option,
)
from capgpu.cli.progress_bar import ProgressBar
from capgpu.data.datasets import open_dataset
from capgpu.distributed import communicator
from capgpu.errors import InvalidValueError
from capgpu.report.image_file import check_image_name
from capgpu.trained import TrainedCaptioner, load, picture_files
from capgpu.training.run_folder import RunFolder

if TYPE_CHECKING:
    from capgpu.captions import Caption
    from capgpu.decode import GenerationConfig

__all__ = ["caption"]

_SMALLEST_PERCENTAGE = 0.001

_GROUPS = {
    "Captions of PICTUREs": ("--captions", "--json", "--attention-sheet"),
    "Pictures of a split": ("--split", "--count", "--indices"),
    **GENERATION_GROUPS,
    "Several runs together": ("--ensemble",),
    **COMPUTE_GROUP,
}
_EXAMPLES = (
    ("Caption files and folders of pictures", "capgpu caption runs/demo cat.jpg photos/"),
    ("The three best captions of a beam search", "capgpu caption runs/demo cat.jpg --beam 5 --captions 3"),
    ("Captions with the probability of each word, for other programs", "capgpu caption runs/demo cat.jpg --json -"),
    ("Words by the mean of two runs", "capgpu caption runs/demo cat.jpg --ensemble runs/second"),
    ("Where a model with attention looked at each word", "capgpu caption runs/grid cat.jpg --attention-sheet cat.png"),
    ("Pictures of the run's split test, beside their true captions", "capgpu caption runs/demo --count 10"),
)


class _Indices(click.ParamType):  # type: ignore[type-arg] # generic from click 8.3 on
    name = "I,J,..."

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            return [int(part) for part in value.split(",")]
        except ValueError:
            self.fail(f"expected integers such as 0,5,17, got {value!r}.", param, ctx)


@click.command(cls=Command, groups=_GROUPS, examples=_EXAMPLES)
@click.argument("paths", nargs=-1, type=LocalPath(path_type=Path), metavar="RUN [PICTURE]...")
@run_option
@config_option
@click.option("--json", "json_file", metavar="FILE", help="Write the captions of PICTUREs as JSON; - is stdout.")
@click.option(
    "--attention-sheet",
    "sheet",
    type=LocalPath(dir_okay=False, path_type=Path),
    metavar="FILE",
    help="Draw where the model looked in each PICTURE at each word: for runs trained with --cell attention.",
)
@click.option("--split", default="test", help="Without PICTURE: train, val, test or unseen.")
@click.option("--count", type=Count(), default=20, help="Number of pictures, evenly spaced in the split.")
@click.option("--indices", type=_Indices(), help="Indices of the pictures, instead of --count.")
@ensemble_option
@click.option("--captions", type=Count(), default=1, help="Captions per PICTURE, with --beam or sampling.")
@generation_options
@backend_option
@click.pass_context
def caption(
    ctx: click.Context,
    paths: tuple[Path, ...],
    run_option: Path | None,
    json_file: str | None,
    sheet: Path | None,
    split: str,
    count: int,
    indices: list[int] | None,
    ensemble: tuple[Path, ...],
    captions: int,
    config: GenerationConfig,
    backend: str | None,
) -> None:
    """Caption picture files, or pictures of a split beside their true captions.

    RUN is a folder that capgpu train wrote. For each PICTURE, a file in any common format or a folder of such files,
    the caption is printed with its probability under the model. Files that cannot be read are reported on standard
    error and skipped; the exit status is then 1, or 2 if no file could be read. Under mpiexec, the processes divide the
    PICTUREs.
    """
    if run_option is not None and paths and (paths[0] / "config.json").is_file():
        raise click.UsageError(f"expected one run folder, got {paths[0]} and --run {run_option}.")
    named = paths if run_option is None else (run_option, *paths)
    run = RunFolder(run_folder(named[0] if named else None))
    pictures = _files(named[1:])
    if pictures:
        _reject_split_options(ctx)
        if sheet is not None:
            check_image_name(sheet)
        inputs = (*pictures, *run.files(), *(file for other in ensemble for file in RunFolder(other).files()))
        check_writable(None if json_file in (None, "-") else Path(json_file), sheet, inputs=inputs)
        use_backend_option(backend)
        config = replace(config, captions=captions, attention=sheet is not None)
        ctx.exit(_caption_files([run.path, *ensemble], pictures, config, json_file, sheet))
    if captions != 1:
        raise click.UsageError("--captions is for captions of PICTUREs: name some.")
    if sheet is not None:
        raise click.UsageError("--attention-sheet is for captions of PICTUREs: name some.")
    if json_file is not None:
        raise click.UsageError("--json is for captions of PICTUREs; capgpu eval --json writes those of a split.")
    if indices is not None and _is_given(ctx, "count"):
        raise click.UsageError("expected --count or --indices, got both. Omit one of them.")
    _caption_split(run, ensemble, split, count, indices, config, backend)


def _files(paths: tuple[Path, ...]) -> tuple[Path, ...]:
    """Return files, with those of each folder in its place; refuse names of which none exists."""
    files = [file for path in paths for file in (picture_files(path) if path.is_dir() else [path])]
    if files and not any(file.exists() for file in files):
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(files[0]))
    return tuple(files)


def _reject_split_options(ctx: click.Context) -> None:
    for name in ("split", "count", "indices"):
        if _is_given(ctx, name):
            raise click.UsageError(f"--{name} chooses pictures of a data set: omit it, or the PICTUREs.")


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE


def _caption_files(
    runs: Sequence[Path], paths: tuple[Path, ...], config: GenerationConfig, json_file: str | None, sheet: Path | None
) -> int:
    """Print or write the captions of picture files; return the exit status."""
    from capgpu.evaluation.captioning import caption_pictures

    ranks, captioner = communicator(), load(runs)
    with ProgressBar() as bar:
        progress = bar.show if ranks.rank == 0 else lambda done, total: None
        result = caption_pictures(
            captioner.model, captioner.encoder, paths, config, progress=progress, communicator=ranks
        )
    if ranks.rank == 0:
        for message in result.errors.values():
            echo(f"capgpu: skipped {message}", err=True)
    if not result.captions:
        raise InvalidValueError(f"expected at least one readable picture, got none in {len(paths)} files.")
    if ranks.rank > 0:
        return 0
    if json_file == "-":
        echo(_json(result.as_json(paths), sys.stdout.encoding))
    elif json_file is not None:
        with atomic_write(json_file, "w") as file:
            file.write(_json(result.as_json(paths), "utf-8") + "\n")
    if sheet is not None:
        _draw_attention(sheet, captioner, [(paths[i], captions[0]) for i, captions in result.captions.items()])
    if json_file != "-":
        _print([(paths[i], caption) for i, captions in result.captions.items() for caption in captions])
    return 1 if result.errors else 0


def _draw_attention(sheet: Path, captioner: TrainedCaptioner, captions: list[tuple[Path, Caption]]) -> None:
    from capgpu.report.attention_sheet import PICTURE_SIZE, AttentionPicture, draw_attention_sheet
    from capgpu.vision import load_picture

    fit = captioner.encoder.preprocessing.fit
    draw_attention_sheet(
        sheet,
        [
            AttentionPicture(load_picture(path, PICTURE_SIZE, fit="inside"), caption, fit, str(path))
            for path, caption in captions
        ],
    )
    echo(f"Wrote {sheet}", err=True)


def _json(value: Any, encoding: str) -> str:
    from capgpu.cli.console import encodable_json

    return encodable_json(value, encoding)


def _print(captions: list[tuple[Path, Caption]]) -> None:
    from rich.table import Table
    from rich.text import Text

    from capgpu.cli.console import print_table

    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("caption", overflow="fold", ratio=2)
    table.add_column("probability", justify="right", no_wrap=True)
    table.add_column("picture", overflow="fold", ratio=1)
    for path, caption in captions:
        table.add_row(Text(caption.text), _percentage(caption.probability), Text(str(path)))
    print_table(table)


def _percentage(probability: float) -> str:
    return f"{probability:.1%}" if probability >= _SMALLEST_PERCENTAGE else f"{100 * probability:.1g}%"


def _caption_split(
    run: RunFolder,
    ensemble: tuple[Path, ...],
    split: str,
    count: int,
    indices: list[int] | None,
    config: GenerationConfig,
    backend: str | None,
) -> None:
    from rich.table import Table
    from rich.text import Text

    from capgpu.cli.console import console, marks_legend, match_mark, print_table
    from capgpu.evaluation.match import match_caption
    from capgpu.evaluation.selection import linspace_indices

    settings = run.settings()
    use_backend_option(backend)
    dataset = open_dataset(settings["data"])
    features, truths = dataset.features(split), dataset.truths(split)
    if indices is None:
        indices = linspace_indices(len(features), count)
    for index in indices:
        if not 0 <= index < len(features):
            raise InvalidValueError(f"--indices: expected indices 0 to {len(features) - 1} of {split}, got {index}.")
    captions = TrainedCaptioner(run.load_ensemble(dataset, ensemble)).caption_features(features[indices], config)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("", no_wrap=True)
    for heading in ("caption", "truth"):
        table.add_column(heading, overflow="fold", ratio=1)
    table.add_column("picture", justify="right")
    for index, (best, *_) in zip(indices, captions, strict=True):
        text = best.text
        mark, style = match_mark(match_caption(text, truths[index], dataset.base_name))
        table.add_row(Text(mark, style), Text(text, style), Text(next(iter(truths[index]), "none")), str(index))
    console().print(dataset.title(split), style="bold")
    print_table(table)
    echo(marks_legend(with_base_names=dataset.base_name is not None))
