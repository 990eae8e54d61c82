"""Contact sheets of a data set's split: evenly spaced pictures, or the best, typical and worst captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from capgpu.data.datasets import Dataset
from capgpu.errors import InvalidValueError
from capgpu.evaluation.match import Match, match_caption
from capgpu.evaluation.relative_cider import relative_cider
from capgpu.evaluation.selection import best_typical_worst, linspace_indices
from capgpu.report.contact_sheet import Cell, draw_contact_sheet

if TYPE_CHECKING:
    from capgpu.evaluation.split_evaluation import SplitEvaluation

__all__ = ["check_drawable", "draw_captioned", "draw_ranked_sheet", "draw_spaced_sheet", "scores_title"]

#: Legend of data sets with base names.
_LEGEND: dict[Match, str] = {
    "right": "right, word for word",
    "near": "right base name, wrong variant",
    "wrong": "wrong",
}
#: Legend of other data sets: a caption that equals none of the true ones need not be wrong.
_LEGEND_WITHOUT_BASE_NAMES: dict[Match, str] = {
    "right": "right, word for word",
    "wrong": "in other words than the true captions",
}
_PARTS = {
    "best": "Best: relative CIDEr {}",
    "typical": "Typical, nearest to the mean of {mean:.2f}: relative CIDEr {}",
    "worst": "Worst: relative CIDEr {}",
}


def check_drawable(dataset: Dataset, split: str) -> None:
    """Check that a split has pictures.

    Parameters
    ----------
    dataset : Dataset
        The data set.
    split : str
        The split to draw.

    Raises
    ------
    ValueError
        If the data set lacks the split, or it has no pictures, only features.
    """
    dataset.features(split)
    if dataset.thumbnail is None:
        raise InvalidValueError(
            f"{dataset.name}: expected a data set with pictures to draw, got features only. Omit the sheets."
        )
    dataset.thumbnail(split, 0)


def scores_title(evaluation: SplitEvaluation) -> str:
    """Return a title for the sheets of an evaluation: the model and its scores.

    Parameters
    ----------
    evaluation : SplitEvaluation
        The evaluation.

    Returns
    -------
    str
        BLEU-4 and CIDEr, or for data sets with base names BLEU-4 and the fractions of right names.
    """
    scores = evaluation.scores[evaluation.model_name]
    parts = [f"BLEU-4 {scores.metrics['BLEU-4'].corpus:.3f}"]
    if scores.base is None:
        parts.append(f"CIDEr {scores.metrics['CIDEr'].corpus:.3f}")
    else:
        parts += [f"{scores.exact:.1%} word for word", f"{scores.base:.1%} right base name"]
    return f"{evaluation.model_name}: {', '.join(parts)}"


def draw_spaced_sheet(
    path: Path, dataset: Dataset, split: str, captions: Sequence[str], count: int, *, title: str = ""
) -> None:
    """Draw captioned pictures at evenly spaced indices of a split.

    Parameters
    ----------
    path : path
        The file; its suffix determines the format, see `capgpu.report.image_file.SUFFIXES`.
    dataset : Dataset
        The data set.
    split : str
        The split. Pictures without a true caption are not drawn.
    captions : sequence of str
        The generated caption of each picture of the split.
    count : int
        Number of pictures to draw.
    title : str
        Title of the sheet, such as that of `scores_title`; by default that of the split.
    """
    truths = dataset.truths(split)
    shown = [i for i, group in enumerate(truths) if group]
    indices = [shown[i] for i in linspace_indices(len(shown), count)]
    draw_captioned(path, dataset, split, {i: captions[i] for i in indices}, title=title)


def draw_captioned(path: Path, dataset: Dataset, split: str, captions: Mapping[int, str], *, title: str = "") -> None:
    """Draw the pictures of a split that have been captioned.

    Parameters
    ----------
    path, dataset, split, title
        As for `draw_spaced_sheet`.
    captions : mapping of int to str
        The generated caption of each picture to draw, by its index in the split.
    """
    truths = dataset.truths(split)
    note = f"{len(captions)} of {len(truths):,} pictures of {dataset.title(split)}"
    _draw(path, dataset, split, _cells(dataset, split, captions, truths, list(captions)), title, note)


def draw_ranked_sheet(
    path: Path, dataset: Dataset, split: str, captions: Sequence[str], count: int, *, title: str = ""
) -> None:
    """Draw the best, typical and the worst captions, a third of the sheet each.

    Captions are ranked by `capgpu.evaluation.relative_cider.relative_cider`.

    Parameters
    ----------
    path, dataset, split, captions, title
        As for `draw_spaced_sheet`.
    count : int
        Maximum number of pictures; at least one of each third is drawn.
    """
    truths = dataset.truths(split)
    shown = [i for i, group in enumerate(truths) if group]
    references = dataset.true_words(split)
    values = relative_cider([dataset.tokenize(captions[i]) for i in shown], [references[i] for i in shown])
    cells: list[Cell] = []
    headings: dict[int, str] = {}
    for name, part in best_typical_worst(values, count).items():
        if part:
            low, high = (f"{values[i]:.2f}" for i in (part[-1], part[0]))
            span = low if low == high else f"{high} to {low}"
            headings[len(cells)] = _PARTS[name].format(span, mean=np.mean(values))
            cells += _cells(dataset, split, captions, truths, [shown[i] for i in part])
    note = (
        f"{len(cells)} of {len(truths):,} pictures of {dataset.title(split)}\n"
        "Ranked by CIDEr relative to that of the best true caption, which has 1"
    )
    _draw(path, dataset, split, cells, title, note, headings)


def _draw(
    path: Path,
    dataset: Dataset,
    split: str,
    cells: Sequence[Cell],
    title: str,
    note: str,
    headings: dict[int, str] | None = None,
) -> None:
    draw_contact_sheet(
        path,
        cells,
        title=title or dataset.title(split),
        subtitle=note,
        legend=_LEGEND if dataset.base_name is not None else _LEGEND_WITHOUT_BASE_NAMES,
        headings=headings,
        fill=dataset.photographs,
    )


def _cells(
    dataset: Dataset,
    split: str,
    captions: Sequence[str] | Mapping[int, str],
    truths: Sequence[Sequence[str]],
    indices: Sequence[int],
) -> list[Cell]:
    check_drawable(dataset, split)
    assert dataset.thumbnail is not None
    return [
        Cell(
            dataset.thumbnail(split, i),
            captions[i],
            next(iter(truths[i]), ""),
            match_caption(captions[i], truths[i], dataset.base_name),
        )
        for i in indices
    ]
