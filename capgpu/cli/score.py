"""capgpu score: scores of a results file against COCO's annotations."""

from __future__ import annotations

import json
from pathlib import Path

import click

from capgpu.checkpoint import atomic_write
from capgpu.cli.command import Command
from capgpu.cli.console import echo
from capgpu.cli.metric_options import java_options
from capgpu.cli.options import check_writable
from capgpu.data.coco_json import read_coco_captions
from capgpu.data.coco_results import match_results, read_coco_results
from capgpu.evaluation.scores import Scores, has_rare_words, score_captions
from capgpu.tokens import TOKENIZERS, interned
from capgpu.visible_text import printable_json

__all__ = ["score"]

_FILE = click.Path(path_type=Path)


_EXAMPLES = (
    ("Score a file of results as COCO's evaluation does", "capgpu score captions.json captions_val2017.json"),
    (
        "Score the pictures that are in both files, with METEOR",
        "capgpu score captions.json captions_val2017.json --subset --meteor",
    ),
)


@click.command(cls=Command, examples=_EXAMPLES)
@click.argument("results", type=_FILE)
@click.argument("annotations", type=_FILE)
@click.option("--tokens", type=click.Choice(list(TOKENIZERS)), default="coco", help="Tokenizer of the captions.")
@click.option("--subset", is_flag=True, help="Score only the pictures that are in both files, and print how many.")
@click.option("--allow-empty", is_flag=True, help="Do not mention captions without words. They count as wrong.")
@java_options
@click.option("--json", "json_file", type=_FILE, help="Write the scores, of all and of each caption, to this file.")
def score(
    results: Path,
    annotations: Path,
    tokens: str,
    subset: bool,
    allow_empty: bool,
    java: list[str],
    json_file: Path | None,
) -> None:
    """Score captions in COCO's results format against an annotation file.

    RESULTS is a JSON list of {"image_id": ..., "caption": ...}, one entry per picture; ANNOTATIONS is a file such as
    captions_val2017.json.
    """
    from capgpu.cli.console import console, print_table, score_table, tokens_note

    check_writable(json_file, inputs=(results, annotations))
    matched = match_results(
        read_coco_results(results), read_coco_captions(annotations), results_name=str(results), subset=subset
    )
    captions, truths, notes = matched.captions, matched.references, list(matched.notes)
    tokenize = interned(TOKENIZERS[tokens])
    words = [tokenize(caption) for caption in captions.values()]
    references = [[tokenize(truth) for truth in group] for group in truths]
    wordless = sum(not own for own in words)
    if wordless and not allow_empty:
        notes.append(f"{wordless} of {len(words)} captions have no words; they count as wrong.")
    scores = score_captions(words, references, java=java)
    if scores.metrics["CIDEr"].corpus == 0 and not has_rare_words(references):
        notes.append(
            "CIDEr weighs words by how rare they are among the pictures' true captions. Those of a single picture, "
            "or of pictures that have the same references, all weigh 0."
        )
    out = console()
    out.print(f"{results}: {len(words)} pictures, {sum(map(len, truths))} true captions", style="bold")
    print_table(score_table({"": scores}))
    for note in notes:
        out.print(note)
    out.print(tokens_note(tokens))
    if json_file is not None:
        _write(json_file, results, annotations, tokens, captions, scores)
        echo(f"Scores: {json_file}")


def _write(
    path: Path, results: Path, annotations: Path, tokens: str, captions: dict[int | str, str], scores: Scores
) -> None:
    report = {
        "results": str(results),
        "annotations": str(annotations),
        "tokens": tokens,
        "pictures": len(captions),
        "scores": {name: value for name, value in scores.as_json().items() if value is not None},
        "captions": [
            {
                "image_id": image_id,
                "caption": caption,
                **{name: float(metric.captions[i]) for name, metric in scores.metrics.items()},
            }
            for i, (image_id, caption) in enumerate(captions.items())
        ],
    }
    with atomic_write(path, "w") as out:
        out.write(printable_json(json.dumps(report, indent=1, ensure_ascii=False)) + "\n")
