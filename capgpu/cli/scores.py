"""Captions against the truth, and how the figures are shown and written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from capgpu.data.datasets import Dataset
from capgpu.evaluation.neighbours import nearest_neighbours
from capgpu.metrics import MetricScore, caption_scores, exact_match
from capgpu.metrics.meteor_spice import check_java_metric, meteor, spice

if TYPE_CHECKING:
    from rich.table import Table

__all__ = [
    "Scores",
    "java_metrics",
    "java_options",
    "neighbour_captions",
    "score_captions",
    "score_table",
    "scores_as_json",
    "tokens_note",
]

Words = Sequence[str]

_JAVA = {"METEOR": meteor, "SPICE": spice}


@dataclass(frozen=True)
class Scores:
    """How good captions are.

    Attributes
    ----------
    metrics : dict of str to MetricScore
        BLEU-1 to BLEU-4, ROUGE-L, CIDEr-D, CIDEr, and those of Java that were asked for.
    exact : float
        The share of captions that equal a true one word for word.
    base : float or None
        The share of captions with the right base name; None where captions have none.
    """

    metrics: dict[str, MetricScore]
    exact: float
    base: float | None


def java_options(command: Callable[..., None]) -> Callable[..., None]:
    """Put ``--meteor`` and ``--spice`` on a subcommand."""
    for name in reversed(_JAVA):
        note = f"{name}, too: needs capgpu[coco-metrics] and Java."
        command = click.option(f"--{name.lower()}", is_flag=True, help=note)(command)
    return command


def java_metrics(*, meteor: bool, spice: bool) -> list[str]:
    """Name the metrics of Java that were asked for; an error says now which of them cannot run here.

    Parameters
    ----------
    meteor, spice : bool
        The options' values.

    Returns
    -------
    list of str
        ``"METEOR"``, ``"SPICE"``.

    Raises
    ------
    MissingExtraError, OSError
        As `capgpu.metrics.meteor_spice.check_java_metric`.
    """
    names = [name for name, wanted in (("METEOR", meteor), ("SPICE", spice)) if wanted]
    for name in names:
        check_java_metric(name)
    return names


def score_captions(
    captions: Sequence[Words],
    references: Sequence[Sequence[Words]],
    *,
    java: Iterable[str] = (),
    right_base: Sequence[bool] | None = None,
) -> Scores:
    """Score captions against the true ones.

    Parameters
    ----------
    captions : sequence of N captions
        Each a list of words.
    references : sequence of N sequences of captions
        The true captions of each picture.
    java : iterable of str
        Metrics of Java to compute besides: ``"METEOR"``, ``"SPICE"``.
    right_base : sequence of N bool, optional
        Which captions have the right base name.

    Returns
    -------
    Scores
        Over all N.

    Raises
    ------
    ValueError
        For no captions, or not as many as pictures with truths.
    """
    metrics = caption_scores(captions, references)
    metrics |= {name: _JAVA[name](captions, references) for name in java}
    base = None if right_base is None else sum(right_base) / len(right_base)
    return Scores(metrics, exact_match(captions, references), base)


def score_table(scores: Mapping[str, Scores]) -> Table:
    """Lay scores out, one column for each of those who were scored: figures side by side would be too wide to read.

    Parameters
    ----------
    scores : mapping of str to Scores
        By name; at least one.

    Returns
    -------
    rich.table.Table
        With a line for each figure.
    """
    from rich.table import Table

    table = Table(box=None, padding=(0, 2, 0, 0), show_header=any(scores))
    table.add_column("", no_wrap=True)
    for who in scores:
        table.add_column(who, justify="right")
    every = list(scores.values())
    for name in every[0].metrics:
        table.add_row(name, *(f"{score.metrics[name].corpus:.3f}" for score in every))
    table.add_row("exact", *(f"{score.exact:.1%}" for score in every))
    if every[0].base is not None:
        table.add_row("right base name", *(f"{score.base:.1%}" for score in every if score.base is not None))
    return table


def scores_as_json(score: Scores) -> dict[str, Any]:
    """Give the figures as JSON can hold them: by name."""
    return {
        **{name: metric.corpus for name, metric in score.metrics.items()},
        "exact": score.exact,
        "right base name": score.base,
    }


def tokens_note(name: str) -> str:
    """Say in a line which words were compared."""
    if name == "coco":
        return "Words as in COCO's evaluation, which calls CIDEr-D CIDEr."
    return "Words and marks as the data have them: figures are no match for those of COCO's evaluation."


def neighbour_captions(dataset: Dataset, split: str) -> list[str]:
    """Caption each picture with the first caption of the nearest training picture that has one.

    Parameters
    ----------
    dataset : Dataset
        The pictures.
    split : str
        The split to caption.

    Returns
    -------
    list of str
        A caption for each image of the split.
    """
    captioned, first = np.unique(dataset.captioned_images("train"), return_index=True)
    nearest = nearest_neighbours(dataset.features(split), dataset.features("train"), rows=captioned)
    wanted, place = np.unique(first[np.searchsorted(captioned, nearest)], return_inverse=True)
    texts = dataset.caption_texts("train", wanted)
    return [texts[i] for i in place.tolist()]
