"""Contact sheets of a data set's split: evenly spaced pictures, or the best, the median and the worst captions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from capgpu.data.datasets import Dataset
from capgpu.errors import InvalidValueError
from capgpu.evaluation.match import Match, match_caption
from capgpu.evaluation.relative_cider import relative_cider
from capgpu.evaluation.selection import best_median_worst, linspace_indices
from capgpu.report.contact_sheet import Cell, draw_contact_sheet

__all__ = ["check_drawable", "draw_captioned", "draw_ranked_sheet", "draw_spaced_sheet"]

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
        If it has no pictures, only features.
    """
    if dataset.thumbnail is None:
        raise InvalidValueError(
            f"{dataset.name}: expected a data set with pictures to draw, got features only. Omit the sheets."
        )
    dataset.thumbnail(split, 0)


def draw_spaced_sheet(path: Path, dataset: Dataset, split: str, captions: Sequence[str], count: int) -> None:
    """Draw captioned pictures at evenly spaced indices of a split.

    Parameters
    ----------
    path : path
        The PNG file.
    dataset : Dataset
        The data set.
    split : str
        The split.
    captions : sequence of str
        The generated caption of each picture of the split.
    count : int
        Number of pictures to draw.
    """
    draw_captioned(path, dataset, split, {i: captions[i] for i in linspace_indices(len(captions), count)})


def draw_captioned(path: Path, dataset: Dataset, split: str, captions: Mapping[int, str]) -> None:
    """Draw the pictures of a split that have been captioned.

    Parameters
    ----------
    path, dataset, split
        As for `draw_spaced_sheet`.
    captions : mapping of int to str
        The generated caption of each picture to draw, by its index in the split.
    """
    cells = _cells(dataset, split, captions, list(captions))
    draw_contact_sheet(path, cells, title=dataset.title(split), legend=_legend(dataset))


def draw_ranked_sheet(path: Path, dataset: Dataset, split: str, captions: Sequence[str], count: int) -> None:
    """Draw the best, the median and the worst captions, a third of the sheet each.

    Captions are ranked by `capgpu.evaluation.relative_cider.relative_cider`.

    Parameters
    ----------
    path, dataset, split, captions
        As for `draw_spaced_sheet`.
    count : int
        Maximum number of pictures; at least one of each third is drawn.
    """
    words = [dataset.tokenize(caption) for caption in captions]
    values = relative_cider(words, dataset.true_words(split))
    cells: list[Cell] = []
    headings: dict[int, str] = {}
    for name, indices in best_median_worst(values, count).items():
        if indices:
            low, high = values[indices[-1]], values[indices[0]]
            headings[len(cells)] = f"{name}: relative CIDEr {low:.2f} to {high:.2f} (1: the best true caption's)"
            cells += _cells(dataset, split, captions, indices)
    draw_contact_sheet(path, cells, title=dataset.title(split), legend=_legend(dataset), headings=headings)


def _cells(
    dataset: Dataset, split: str, captions: Sequence[str] | Mapping[int, str], indices: Sequence[int]
) -> list[Cell]:
    check_drawable(dataset, split)
    assert dataset.thumbnail is not None
    truths = dataset.truths(split)
    return [
        Cell(
            dataset.thumbnail(split, i),
            captions[i],
            truths[i][0],
            match_caption(captions[i], truths[i], dataset.base_name),
        )
        for i in indices
    ]


def _legend(dataset: Dataset) -> dict[Match, str]:
    return _LEGEND if dataset.base_name is not None else _LEGEND_WITHOUT_BASE_NAMES
