"""Contact sheets of a split: an even spread, and the best, the median and the worst."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from capgpu.cli.judge import VERDICT_NAMES, spread, verdict
from capgpu.data.datasets import Dataset
from capgpu.evaluation.ranking import attainment

if TYPE_CHECKING:
    from capgpu.report.contact_sheet import Cell, Verdict

__all__ = ["check_drawable", "draw_ranked_sheet", "draw_spread_sheet"]


def check_drawable(dataset: Dataset, split: str) -> None:
    """Refuse a split without pictures, before anything is computed for its sheet.

    Parameters
    ----------
    dataset : Dataset
        The pictures.
    split : str
        The split to draw.

    Raises
    ------
    ValueError
        If it has none.
    """
    if dataset.thumbnail is None:
        raise ValueError(f"the data set {dataset.name} has no pictures to draw; leave the sheets out.")
    dataset.thumbnail(split, 0)


def draw_spread_sheet(path: Path, dataset: Dataset, split: str, captions: Sequence[str], count: int) -> None:
    """Draw captioned pictures that nobody picked: spread evenly over the split.

    Parameters
    ----------
    path : path
        The PNG.
    dataset : Dataset
        The pictures.
    split : str
        The split.
    captions : sequence of str
        What a model wrote for each picture of it.
    count : int
        Pictures to draw.
    """
    from capgpu.report.contact_sheet import draw_contact_sheet

    cells = _cells(dataset, split, captions, spread(len(captions), count))
    draw_contact_sheet(path, cells, title=_title(dataset, split), verdict_names=_verdict_names(dataset))


def draw_ranked_sheet(path: Path, dataset: Dataset, split: str, captions: Sequence[str], count: int) -> None:
    """Draw the best, the median and the worst captions, a third of the sheet each.

    The order is that of `capgpu.evaluation.ranking.attainment`.

    Parameters
    ----------
    path, dataset, split, captions
        As for `draw_spread_sheet`.
    count : int
        Pictures to draw, at most; at least one of each third that the split has.
    """
    from capgpu.report.contact_sheet import draw_contact_sheet

    words = [dataset.tokenize(caption) for caption in captions]
    values = attainment(words, dataset.true_words(split))
    order = np.argsort(-values, kind="stable").tolist()
    third = max(min(count, len(order)) // 3, 1)
    middle = max((len(order) - third) // 2, third)
    parts = {
        "best": order[:third],
        "median": order[middle : middle + third],
        "worst": order[max(len(order) - third, middle + third) :],
    }
    cells: list[Cell] = []
    headings: dict[int, str] = {}
    for name, chosen in parts.items():
        if chosen:
            low, high = values[chosen[-1]], values[chosen[0]]
            headings[len(cells)] = f"{name}: {low:.2f} to {high:.2f} of the CIDEr-D that its own true captions reach"
            cells += _cells(dataset, split, captions, chosen)
    draw_contact_sheet(
        path, cells, title=_title(dataset, split), verdict_names=_verdict_names(dataset), headings=headings
    )


def _cells(dataset: Dataset, split: str, captions: Sequence[str], chosen: Sequence[int]) -> list[Cell]:
    from capgpu.report.contact_sheet import Cell

    check_drawable(dataset, split)
    assert dataset.thumbnail is not None
    truths = dataset.truths(split)
    return [
        Cell(dataset.thumbnail(split, i), captions[i], truths[i][0], verdict(captions[i], truths[i], dataset.base_name))
        for i in chosen
    ]


def _title(dataset: Dataset, split: str) -> str:
    note = dataset.notes.get(split)
    return f"{split}: {note}" if note else split


def _verdict_names(dataset: Dataset) -> dict[Verdict, str]:
    if dataset.base_name is not None:
        return VERDICT_NAMES
    # several captions can be right: one that none of the true ones equals need not be wrong
    return {"right": VERDICT_NAMES["right"], "wrong": "in other words than the true captions"}
