"""capgpu eval: scores of a split beside those of the trivial guess."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capgpu.checkpoint import atomic_write
from capgpu.cli.decoding import decoding_options
from capgpu.cli.options import backend_option, refuse_unwritable, run_option, use_backend_option
from capgpu.cli.scores import (
    Scores,
    java_metrics,
    java_options,
    neighbour_captions,
    score_captions,
    score_table,
    scores_as_json,
    tokens_note,
)
from capgpu.cli.sheets import check_drawable, draw_ranked_sheet, draw_spread_sheet
from capgpu.data.coco_results import write_coco_results
from capgpu.data.datasets import Dataset, open_dataset
from capgpu.tokens import detokenize, interned
from capgpu.training.run_folder import RunFolder

if TYPE_CHECKING:
    from capgpu.decode import Decoding

__all__ = ["evaluate"]

_FILE = click.Path(dir_okay=False, path_type=Path)
_NEIGHBOUR = "nearest training picture"


@click.command(name="eval")
@run_option
@click.option("--split", default="test", help="The pictures: train, val, test or unseen.")
@click.option("--json", "json_file", type=_FILE, help="Write scores and captions to this file.")
@click.option("--results", type=_FILE, help="Write the model's captions to this file, in COCO's results format.")
@click.option("--sheet", type=_FILE, help="Draw captioned pictures to this PNG, spread evenly over the split.")
@click.option("--ranked-sheet", type=_FILE, help="Draw the best, the median and the worst captions to this PNG.")
@click.option("--sheet-count", type=click.IntRange(min=1), default=48, help="Pictures on each of them.")
@decoding_options
@java_options
@backend_option
def evaluate(
    folder: Path,
    split: str,
    json_file: Path | None,
    results: Path | None,
    sheet: Path | None,
    ranked_sheet: Path | None,
    sheet_count: int,
    meteor: bool,
    spice: bool,
    decoding: Decoding,
    backend: str | None,
) -> None:
    """Score a split: BLEU, ROUGE-L, CIDEr, exact matches and right base names.

    Beside the model stands the trivial guess: the caption of the nearest training picture, by the cosine of
    the features. Pictures without a true caption are captioned, but not scored.
    """
    from capgpu.evaluation.captioning import write_captions

    run = RunFolder(folder)
    refuse_unwritable(json_file, results, sheet, ranked_sheet, inputs=run.files())
    java = java_metrics(meteor=meteor, spice=spice)
    settings = run.settings()
    use_backend_option(backend)
    dataset = open_dataset(settings["data"])
    references = dataset.true_words(split)
    if sheet is not None or ranked_sheet is not None:
        check_drawable(dataset, split)
    model = run.load(dataset)
    name = f"{model.cell_type.upper()}, {model.config['hidden_dim']} units{_way(decoding)}"
    written = [caption.text for caption in write_captions(model, dataset.features(split), decoding)]
    answers = {name: written, _NEIGHBOUR: neighbour_captions(dataset, split)}
    truths = [[detokenize(words) for words in own] for own in references]
    judged = [picture for picture, true in enumerate(truths) if true]
    references = [references[picture] for picture in judged]
    scores = {}
    for who, captions in answers.items():
        own = [captions[picture] for picture in judged]
        right_base = _right_base_names(dataset, own, [truths[picture] for picture in judged])
        words = list(map(interned(dataset.tokenize), own))
        scores[who] = score_captions(words, references, java=java, right_base=right_base)
    writable = _writable(references, model.word_to_idx)
    _print(dataset, split, len(judged), scores, writable)
    if len(judged) < len(truths):
        click.echo(f"{len(truths) - len(judged):,} more pictures have no true caption: captioned, but not scored.")
    if json_file is not None:
        _write_report(json_file, run, split, decoding, writable, scores, answers, truths)
        click.echo(f"Scores and captions: {json_file}")
    if results is not None:
        write_coco_results(results, dataset.image_ids(split), answers[name])
        click.echo(f"Captions in COCO's format: {results}")
    if sheet is not None:
        draw_spread_sheet(sheet, dataset, split, answers[name], sheet_count)
        click.echo(f"Contact sheet: {sheet}")
    if ranked_sheet is not None:
        draw_ranked_sheet(ranked_sheet, dataset, split, answers[name], sheet_count)
        click.echo(f"Ranked contact sheet: {ranked_sheet}")


def _way(decoding: Decoding) -> str:
    """Say how captions are written, where that isn't greedily."""
    return f", beam of {decoding.beam}" if decoding.beam > 1 else ", drawn" if decoding.samples else ""


def _right_base_names(dataset: Dataset, captions: list[str], truths: list[list[str]]) -> list[bool] | None:
    base_name = dataset.base_name
    if base_name is None:
        return None
    pairs = zip(captions, truths, strict=True)
    return [base_name(caption) in {base_name(truth) for truth in own} for caption, own in pairs]


def _writable(references: list[list[list[str]]], word_to_idx: dict[str, int]) -> float:
    """Tell which share of the pictures has a true caption whose words are all in the vocabulary."""
    possible = [any(all(word in word_to_idx for word in truth) for truth in own) for own in references]
    return sum(possible) / len(possible)


def _print(dataset: Dataset, split: str, count: int, scores: dict[str, Scores], writable: float) -> None:
    from capgpu.cli.console import console
    from capgpu.tokens import coco_tokenize

    note = dataset.notes.get(split)
    out = console()
    out.print(f"{split}: {count} pictures" + (f", {note}" if note else ""), style="bold")
    out.print(score_table(scores))
    out.print(tokens_note("coco" if dataset.tokenize is coco_tokenize else "plain"))
    if writable < 1:
        out.print(f"Only {writable:.1%} of these captions can be written with the words that training has seen.")


def _write_report(
    path: Path,
    run: RunFolder,
    split: str,
    decoding: Decoding,
    writable: float,
    scores: dict[str, Scores],
    answers: dict[str, list[str]],
    truths: list[list[str]],
) -> None:
    report: dict[str, Any] = {
        "run": str(run.path),
        "split": split,
        "decoding": asdict(decoding),
        "pictures": len(truths),
        "names the vocabulary can write": writable,
        "scores": {who: scores_as_json(score) for who, score in scores.items()},
        "captions": [
            {"picture": i, "truth": own, **{who: captions[i] for who, captions in answers.items()}}
            for i, own in enumerate(truths)
        ],
    }
    with atomic_write(path, "w") as out:
        out.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
