"""capgpu eval: scores of a split beside those of the nearest-neighbour baseline."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from capgpu.checkpoint import atomic_write
from capgpu.cli.command import Command, config_option
from capgpu.cli.console import echo
from capgpu.cli.generation_options import GENERATION_GROUPS, generation_options
from capgpu.cli.metric_options import java_options
from capgpu.cli.options import (
    COMPUTE_GROUP,
    Count,
    backend_option,
    check_writable,
    ensemble_option,
    run_argument,
    use_backend_option,
)
from capgpu.cli.progress_bar import ProgressBar
from capgpu.data.coco_results import write_coco_results
from capgpu.data.datasets import Dataset, open_dataset
from capgpu.distributed import communicator
from capgpu.training.run_folder import RunFolder
from capgpu.visible_text import printable_json

if TYPE_CHECKING:
    from capgpu.decode import GenerationConfig
    from capgpu.evaluation.split_evaluation import SplitEvaluation

__all__ = ["evaluate"]

_FILE = click.Path(dir_okay=False, path_type=Path)

_GROUPS = {
    "Pictures and scores": ("--split", "--meteor", "--spice"),
    "Files to write": ("--json", "--results", "--sheet", "--ranked-sheet", "--sheet-count"),
    **GENERATION_GROUPS,
    "Several runs together": ("--ensemble",),
    **COMPUTE_GROUP,
}
_EXAMPLES = (
    ("Score the split test", "capgpu eval runs/demo"),
    (
        "Decode with a beam of 5, and draw the best, typical and worst captions",
        "capgpu eval runs/demo --beam 5 --ranked-sheet best-and-worst.png",
    ),
    (
        "Write all captions in COCO's results format, for COCO's own tools",
        "capgpu eval runs/demo --results captions.json",
    ),
)


@click.command(name="eval", cls=Command, groups=_GROUPS, examples=_EXAMPLES)
@run_argument
@config_option
@click.option("--split", default="test", help="Split to evaluate: train, val, test or unseen.")
@click.option("--json", "json_file", type=_FILE, help="Write scores and captions to this file.")
@click.option("--results", type=_FILE, help="Write the model's captions to this file, in COCO's results format.")
@click.option("--sheet", type=_FILE, help="Draw captioned pictures, evenly spaced in the split: a .png, .jpg or .webp.")
@click.option("--ranked-sheet", type=_FILE, help="Draw the best, typical and worst captions: a .png, .jpg or .webp.")
@click.option("--sheet-count", type=Count(), default=18, help="Number of pictures per sheet.")
@ensemble_option
@generation_options
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
    ensemble: tuple[Path, ...],
    java: list[str],
    config: GenerationConfig,
    backend: str | None,
) -> None:
    """Score the captions of a split: BLEU, ROUGE-L, CIDEr, exact matches and right base names.

    RUN is a folder that capgpu train wrote. The baseline is the caption of the nearest training picture, by the cosine
    of the features. Pictures without a true caption are captioned, but not scored. Under mpiexec, the processes divide
    the pictures.
    """
    from capgpu.evaluation.split_evaluation import caption_share, evaluate_split
    from capgpu.report.dataset_sheets import check_drawable, draw_ranked_sheet, draw_spaced_sheet, scores_title
    from capgpu.report.image_file import check_image_name

    sheet_count_source = click.get_current_context().get_parameter_source("sheet_count")
    if sheet_count_source is click.core.ParameterSource.COMMANDLINE and sheet is None and ranked_sheet is None:
        raise click.UsageError("--sheet-count is for sheets: add --sheet or --ranked-sheet, or omit it.")
    ranks = communicator()
    run = RunFolder(folder)
    for file in (sheet, ranked_sheet):
        if file is not None:
            check_image_name(file)
    inputs = (file for each in (run, *map(RunFolder, ensemble)) for file in each.files())
    check_writable(json_file, results, sheet, ranked_sheet, inputs=inputs)
    settings = run.settings()
    use_backend_option(backend)
    dataset = open_dataset(settings["data"])
    if sheet is not None or ranked_sheet is not None:
        check_drawable(dataset, split)
    model = run.load_ensemble(dataset, ensemble)
    if ranks.rank > 0:
        caption_share(model, dataset, split, config, ranks)
        return
    with ProgressBar() as bar:
        evaluation = evaluate_split(model, dataset, split, config, java=java, progress=bar.show, communicator=ranks)
    _print(dataset, evaluation)
    if json_file is not None:
        others = {"ensemble": list(map(str, ensemble))} if ensemble else {}
        report = {"run": str(run.path), **others, "decoding": asdict(config), **evaluation.as_json()}
        with atomic_write(json_file, "w") as out:
            out.write(printable_json(json.dumps(report, indent=1, ensure_ascii=False)) + "\n")
        echo(f"Scores and captions: {json_file}")
    if results is not None:
        write_coco_results(results, dataset.image_ids(split), evaluation.model_captions)
        echo(f"Captions in COCO's format: {results}")
    captions, title = evaluation.model_captions, scores_title(evaluation)
    if sheet is not None:
        draw_spaced_sheet(sheet, dataset, split, captions, sheet_count, title=title)
        echo(f"Contact sheet: {sheet}")
    if ranked_sheet is not None:
        draw_ranked_sheet(ranked_sheet, dataset, split, captions, sheet_count, title=title)
        echo(f"Ranked contact sheet: {ranked_sheet}")


def _print(dataset: Dataset, evaluation: SplitEvaluation) -> None:
    from capgpu.cli.console import console, print_table, score_table, tokens_note
    from capgpu.tokens import coco_tokenize

    note = dataset.notes.get(evaluation.split)
    out = console()
    out.print(f"{evaluation.split}: {evaluation.n_scored} pictures" + (f", {note}" if note else ""), style="bold")
    print_table(score_table(evaluation.scores))
    out.print(tokens_note("coco" if dataset.tokenize is coco_tokenize else "plain"))
    if evaluation.expressible < 1:
        out.print(f"Only {evaluation.expressible:.1%} of these captions consist of words of the vocabulary.")
    unscored = len(evaluation.truths) - evaluation.n_scored
    if unscored:
        echo(f"{unscored:,} more pictures have no true caption: captioned, but not scored.")
