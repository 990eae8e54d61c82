"""capgpu prepare: prepare a folder for training from captioned pictures."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capgpu.cli.command import Command, config_option
from capgpu.cli.console import echo
from capgpu.cli.encoder_options import ENCODER_SETTINGS, encoder_options
from capgpu.cli.options import Count, LocalPath, Number
from capgpu.cli.progress_bar import ProgressBar
from capgpu.data.detect_format import KINDS
from capgpu.distributed import communicator
from capgpu.errors import InvalidValueError
from capgpu.tokens import TOKENIZERS

if TYPE_CHECKING:
    from collections.abc import Callable

    from capgpu.data.feature_journal import Helpers
    from capgpu.data.prepare import PrepareResult
    from capgpu.vision import PictureEncoder

__all__ = ["prepare"]

_COUNT = Count()
_FRACTION = Number(0, 1, max_open=True)
_N_SHOWN = 5
#: A fraction of unknown words about which a message is printed.
_MUCH_UNKNOWN = 0.1


_GROUPS = {
    "Source and output": ("--out", "--kind", "--images", "--features", "--force", "--config"),
    "Words": ("--tokens", "--min-count", "--max-words", "--max-length"),
    "Splits": ("--val", "--test", "--seed"),
    "Pictures to features": (
        "--network",
        "--output",
        "--size",
        "--mean",
        "--std",
        "--channels",
        "--fit",
        "--background",
        "--grid",
        "--pca",
        "--max-unreadable",
    ),
}
_EXAMPLES = (
    ("A folder of pictures with captions.csv", "capgpu prepare photos/ --out data/photos"),
    ("COCO as unzipped", "capgpu prepare coco/ --out data/coco"),
    ("Features of 4 x 4 cells of each picture, for attention", "capgpu prepare photos/ --out data/photos --grid 4"),
    ("Train on it", "capgpu train runs/photos --data data/photos"),
)


@click.command(cls=Command, groups=_GROUPS, examples=_EXAMPLES)
@config_option
@click.argument("sources", type=LocalPath(exists=True, path_type=Path), nargs=-1, required=True, metavar="SOURCE...")
@click.option("-o", "--out", type=click.Path(file_okay=False, path_type=Path), required=True, help="Output folder.")
@click.option("--kind", type=click.Choice(KINDS), help="Format of SOURCE.  [default: detected]")
@click.option(
    "--images",
    type=LocalPath(exists=True, file_okay=False, path_type=Path),
    help="Folder of the pictures named in SOURCE.",
)
@click.option(
    "--features",
    type=LocalPath(exists=True, dir_okay=False, path_type=Path),
    help="Existing features (vectors or grids): .npy, or .npz or .h5 with features and image_ids.",
)
@click.option("--tokens", type=click.Choice(list(TOKENIZERS)), default="coco", help="Tokenizer of the captions.")
@click.option(
    "--min-count",
    type=_COUNT,
    help="Rarer words of the training captions become <UNK>.  [default: 5, or less where more than 5% would]",
)
@click.option("--max-words", type=Count(5), help="Maximum vocabulary size.  [default: unlimited]")
@click.option("--max-length", type=_COUNT, help="Maximum number of words per caption.  [default: unlimited]")
@click.option(
    "--val", type=_FRACTION, default=0.1, help="Fraction of the pictures for validation, if SOURCE has no splits."
)
@click.option(
    "--test", type=_FRACTION, default=0.1, help="Fraction of the pictures for testing, if SOURCE has no splits."
)
@click.option("--seed", type=Count(0), default=0, help="Seed of the random split.")
@click.option("--pca", type=_COUNT, metavar="N", help="Reduce the pictures' features to N principal components.")
@click.option(
    "--max-unreadable",
    type=Number(0, 1),
    default=0.5,
    help="Largest fraction of pictures, of all and of each split in SOURCE, that may be missing or unreadable.",
)
@encoder_options
@click.option("--force", is_flag=True, help="Overwrite the data set in --out.")
def prepare(sources: tuple[Path, ...], out: Path, kind: str | None, force: bool, **options: Any) -> None:
    """Prepare a folder for training: words, vocabulary, token ids and features.

    SOURCE is the folder of COCO, Flickr8k or Flickr30k as unzipped, of folders of splits with metadata.jsonl, or of
    pictures and a file of captions: CSV, TSV or JSONL with image, caption and optionally split. Or it is a file:
    COCO's annotations (captions_*.json), Karpathy's splits (dataset_*.json), or a file of captions; several files of
    one kind are a split each (train.csv, val.csv).
    An interrupted preparation resumes when it is started again. Under mpiexec, the processes divide the pictures.
    """
    from capgpu.data.feature_journal import Helpers, compute_share

    ranks = communicator()
    encoding = {name: options[name] for name in ENCODER_SETTINGS}

    def open_encoder() -> PictureEncoder:
        from capgpu.vision import open_encoder

        return open_encoder(**encoding)

    if ranks.rank > 0:
        compute_share(open_encoder, ranks)
        return
    with Helpers(ranks) as helpers:
        _prepare(sources, out, kind, force, encoding, open_encoder, helpers, options)


def _prepare(
    sources: tuple[Path, ...],
    out: Path,
    kind: str | None,
    force: bool,
    encoding: dict[str, Any],
    open_encoder: Callable[[], PictureEncoder],
    helpers: Helpers,
    options: dict[str, Any],
) -> None:
    """Prepare the folder, as rank 0 or the only process."""
    from capgpu.data.cs231n_coco import is_cs231n_coco
    from capgpu.data.detect_format import read_sources
    from capgpu.data.feature_files import open_features
    from capgpu.data.prepare import PrepareConfig
    from capgpu.data.prepare import prepare as prepare_folder
    from capgpu.data.staging import check_output_folder

    source = sources[0]
    if is_cs231n_coco(source):
        raise InvalidValueError(
            f"{source}: expected a source to prepare, got the cs231n course's COCO set, which does not need "
            f"preparation. Train on it with: capgpu train --data {source}"
        )
    check_output_folder(out, force)
    config = PrepareConfig(
        **{name: options[name] for name in ("tokens", "min_count", "max_words", "max_length", "val", "test", "seed")},
        pca=options["pca"],
    )
    features = None if options["features"] is None else open_features(options["features"])
    captions = read_sources(sources, kind, options["images"])

    where = {
        "path": " ".join(str(path.absolute()) for path in sources),
        "images": str(options["images"] and options["images"].absolute()),
    }
    pictures = sum(map(len, captions.splits.values()))
    echo(f"{captions.path}: {pictures:,} pictures, kind {captions.kind}")
    for note in captions.notes:
        echo(f"{captions.path}: {note}")
    if features is not None:
        whose = (
            f"ids from its entry {features.ids_entry}"
            if features.ids_entry
            else "no ids: rows are in the order of the captions' file"
        )
        echo(f"{features.path}: {len(features.rows):,} rows of features, {whose}")
    with ProgressBar() as bar:
        result = prepare_folder(
            captions,
            out,
            config,
            features,
            open_encoder,
            settings={**where, **({} if features else encoding)},
            max_unreadable=options["max_unreadable"],
            force=force,
            progress=bar.show,
            helpers=helpers,
        )
    _print(result)
    echo(f"Prepared: {out}")
    if "val" in result.report["splits"]:
        cells = len(result.report["features"]["shape"]) > 1
        echo(f"Train on it with: capgpu train --data {out}{' --cell attention' if cells else ''}")
    else:
        echo("It has no split val, which capgpu train needs.", err=True)


def _features_line(report: dict[str, Any]) -> str:
    stored = report["features"]
    *cells, length = stored["shape"]
    pictures = sum(statistics["pictures"] for statistics in report["splits"].values())
    per_picture = stored["bytes a picture"]
    return (
        f"Features: {f'{cells[0]} cells of ' if cells else ''}{length:,} numbers in {stored['dtype']}, "
        f"{per_picture / 1e3:,.1f} kB a picture, {pictures * per_picture / 1e6:,.1f} MB in all."
    )


def _print(result: PrepareResult) -> None:
    from rich.table import Table

    from capgpu.cli.console import console, print_table

    out, report = console(), result.report
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("split")
    for heading in ("pictures", "captions", "words", "unknown", "cut off", "words a caption"):
        table.add_column(heading, justify="right")
    for name, statistics in report["splits"].items():
        lengths = statistics["words a caption"]
        length_range = f"{lengths['least']} to {lengths['most']}, median {lengths['median']:g}"
        unknown = f"{statistics['unknown words'] / max(statistics['words'], 1):.2%}"
        counts = (f"{statistics[key]:,}" for key in ("pictures", "captions", "words"))
        table.add_row(name, *counts, unknown, f"{statistics['words cut off']:,}", length_range)
    print_table(table)
    words = report["words in training captions"]
    out.print(
        f"Vocabulary: {report['vocabulary']:,} entries, 4 of them special, of {words:,} words in training captions."
    )
    train = report["splits"]["train"]
    share = train["unknown words"] / max(train["words"] - train["words cut off"], 1)
    out.print(f"Minimum count: {report['minimum count']}. Unknown words in training captions: {share:.2%}.")
    out.print(_features_line(report))
    if share > _MUCH_UNKNOWN:
        echo(
            f"{share:.0%} of the words in training captions are <UNK>: lower --min-count, or raise --max-words.",
            err=True,
        )
    for what, items in (("Missing or unreadable pictures", result.broken), ("Captions without words", result.wordless)):
        if items:
            echo(f"{what}, omitted: {len(items):,}", err=True)
            for item in items[:_N_SHOWN]:
                echo(f"  {item}", err=True)
            if len(items) > _N_SHOWN:
                echo(f"  and {len(items) - _N_SHOWN:,} more: see report in prepared.json", err=True)
