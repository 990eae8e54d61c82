"""capgpu score: a results file of anyone against COCO's annotations."""

from __future__ import annotations

import json
from pathlib import Path

import click

from capgpu.checkpoint import atomic_write
from capgpu.cli.options import refuse_unwritable
from capgpu.cli.scores import (
    Scores,
    java_metrics,
    java_options,
    score_captions,
    score_table,
    scores_as_json,
    tokens_note,
)
from capgpu.data.coco_json import read_coco_captions
from capgpu.data.coco_results import match_results, read_coco_results
from capgpu.tokens import TOKENIZERS, interned

__all__ = ["score"]

_FILE = click.Path(path_type=Path)


@click.command()
@click.argument("results", type=_FILE)
@click.argument("annotations", type=_FILE)
@click.option("--tokens", type=click.Choice(list(TOKENIZERS)), default="coco", help="How captions become words.")
@click.option("--subset", is_flag=True, help="Score the pictures in the results alone, not all that are annotated.")
@click.option("--allow-empty", is_flag=True, help="Score empty captions as wrong, instead of refusing the file.")
@java_options
@click.option("--json", "json_file", type=_FILE, help="Write scores, of all and of each caption, to this file.")
def score(
    results: Path,
    annotations: Path,
    tokens: str,
    subset: bool,
    allow_empty: bool,
    meteor: bool,
    spice: bool,
    json_file: Path | None,
) -> None:
    """Score captions in COCO's results format against an annotation file.

    RESULTS is a JSON list of {"image_id": ..., "caption": ...}, one entry a picture, from whatever wrote it;
    ANNOTATIONS a file such as captions_val2017.json.
    """
    from capgpu.cli.console import console

    refuse_unwritable(json_file, inputs=(results, annotations))
    java = java_metrics(meteor=meteor, spice=spice)
    captions = read_coco_results(results, allow_empty=allow_empty)
    truths = match_results(captions, read_coco_captions(annotations), results_name=str(results), subset=subset)
    tokenize = interned(TOKENIZERS[tokens])
    words = [tokenize(caption) for caption in captions.values()]
    scores = score_captions(words, [[tokenize(truth) for truth in own] for own in truths], java=java)
    out = console()
    out.print(f"{results}: {len(words)} pictures, {sum(map(len, truths))} true captions", style="bold")
    out.print(score_table({"": scores}))
    out.print(tokens_note(tokens))
    if json_file is not None:
        _write(json_file, results, annotations, tokens, captions, scores)
        click.echo(f"Scores: {json_file}")


def _write(
    path: Path, results: Path, annotations: Path, tokens: str, captions: dict[int | str, str], scores: Scores
) -> None:
    report = {
        "results": str(results),
        "annotations": str(annotations),
        "tokens": tokens,
        "pictures": len(captions),
        "scores": {name: value for name, value in scores_as_json(scores).items() if value is not None},
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
        out.write(json.dumps(report, indent=1, ensure_ascii=False) + "\n")
