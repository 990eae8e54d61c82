"""capgpu eval: scores of a split beside those of the trivial guess."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click

from capgpu.checkpoint import atomic_write
from capgpu.cli.datasets import Dataset, open_dataset
from capgpu.cli.options import backend_option, run_option, use_backend_option
from capgpu.cli.runs import Run
from capgpu.cli.scores import Scores, neighbour_captions, score_captions
from capgpu.vocabulary import tokenize

__all__ = ["evaluate"]

_FILE = click.Path(dir_okay=False, path_type=Path)


@click.command(name="eval")
@run_option
@click.option("--split", default="test", help="The pictures: train, val, test or unseen.")
@click.option("--json", "json_file", type=_FILE, help="Write scores and captions to this file.")
@click.option("--sheet", type=_FILE, help="Draw captioned pictures to this PNG.")
@click.option("--sheet-count", type=click.IntRange(min=1), default=48, help="Pictures on it, spread evenly.")
@backend_option
def evaluate(
    folder: Path,
    split: str,
    json_file: Path | None,
    sheet: Path | None,
    sheet_count: int,
    backend: str | None,
) -> None:
    """Score a split: BLEU, exact matches and right base names.

    Beside the model stands the trivial guess: the caption of the nearest training picture, by the cosine of
    the features.
    """
    from capgpu.evaluation.captioning import write_captions

    for file in (json_file, sheet):
        if file is not None and not file.parent.is_dir():
            raise ValueError(f"the folder of {file} does not exist; make it first.")
    run = Run(folder)
    settings = run.settings()
    use_backend_option(backend)
    dataset = open_dataset(settings["data"])
    truths = dataset.truths(split)
    if sheet is not None:
        _picture(dataset, split, 0)
    model = run.load(dataset)
    name = f"{settings['cell'].upper()}, {settings['hidden']} units"
    answers = {
        name: write_captions(model, dataset.features(split)),
        "nearest training picture": neighbour_captions(dataset, split),
    }
    scores = {who: score_captions(captions, truths, dataset.base_name) for who, captions in answers.items()}
    writable = _writable(truths, model.word_to_idx)
    _print(dataset, split, len(truths), scores, writable)
    if json_file is not None:
        report = {
            "run": str(run.path),
            "split": split,
            "pictures": len(truths),
            "names the vocabulary can write": writable,
            "scores": {who: _as_json(score) for who, score in scores.items()},
            "captions": [
                {"picture": i, "truth": own, **{who: captions[i] for who, captions in answers.items()}}
                for i, own in enumerate(truths)
            ],
        }
        with atomic_write(json_file, "w") as out:
            out.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
        click.echo(f"Scores and captions: {json_file}")
    if sheet is not None:
        _draw(sheet, dataset, split, answers[name], truths, sheet_count)
        click.echo(f"Contact sheet: {sheet}")


def _writable(truths: list[list[str]], word_to_idx: dict[str, int]) -> float:
    """Tell which share of the pictures has a true caption whose words are all in the vocabulary."""
    possible = [any(all(word in word_to_idx for word in tokenize(truth)) for truth in own) for own in truths]
    return sum(possible) / len(possible)


def _print(dataset: Dataset, split: str, count: int, scores: dict[str, Scores], writable: float) -> None:
    from rich.table import Table

    from capgpu.cli.console import console

    note = dataset.notes.get(split)
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for heading in ("BLEU-1", "BLEU-4", "exact", *(["right base name"] if dataset.base_name else [])):
        table.add_column(heading, justify="right")
    for who, score in scores.items():
        cells = [f"{score.bleu[0]:.3f}", f"{score.bleu[3]:.3f}", f"{score.exact:.1%}"]
        if score.base is not None:
            cells.append(f"{score.base:.1%}")
        table.add_row(who, *cells)
    out = console()
    out.print(f"{split}: {count} pictures" + (f", {note}" if note else ""), style="bold")
    out.print(table)
    if writable < 1:
        out.print(f"Only {writable:.1%} of these captions can be written with the words that training has seen.")


def _as_json(score: Scores) -> dict[str, Any]:
    values: dict[str, Any] = {f"BLEU-{n}": value for n, value in enumerate(score.bleu, start=1)}
    return {**values, "exact": score.exact, "right base name": score.base}


def _picture(dataset: Dataset, split: str, image: int) -> Any:
    if dataset.thumbnail is None:
        raise ValueError(f"the data set {dataset.name} has no pictures to draw; leave --sheet out.")
    return dataset.thumbnail(split, image)


def _draw(path: Path, dataset: Dataset, split: str, captions: list[str], truths: list[list[str]], count: int) -> None:
    from capgpu.cli.judge import VERDICT_NAMES, spread, verdict
    from capgpu.report.contact_sheet import Cell, draw_contact_sheet

    cells = [
        Cell(
            _picture(dataset, split, i),
            captions[i],
            truths[i][0],
            verdict(captions[i], truths[i], dataset.base_name),
        )
        for i in spread(len(truths), count)
    ]
    note = dataset.notes.get(split)
    title = f"{split}: {note}" if note else split
    names = {kind: name for kind, name in VERDICT_NAMES.items() if kind != "near" or dataset.base_name is not None}
    draw_contact_sheet(path, cells, title=title, verdict_names=names)
