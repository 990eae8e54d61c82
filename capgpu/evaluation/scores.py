"""All scores of a set of captions, as tables and files show them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from capgpu.metrics import MetricScore, coco_scores, exact_match
from capgpu.metrics.meteor_spice import meteor, spice

__all__ = ["JAVA_METRICS", "Scores", "has_rare_words", "score_captions"]

Words = Sequence[str]

#: The metrics that run as Java programs, by name.
JAVA_METRICS = {"METEOR": meteor, "SPICE": spice}


@dataclass(frozen=True)
class Scores:
    """Scores of a set of captions.

    Attributes
    ----------
    metrics : dict of str to MetricScore
        BLEU-1 to BLEU-4, ROUGE-L, CIDEr, and the requested Java metrics.
    exact : float
        Fraction of captions equal to a true one, word for word.
    base : float or None
        Fraction of captions with the right base name; None for data sets without base names.
    """

    metrics: dict[str, MetricScore]
    exact: float
    base: float | None

    def as_json(self) -> dict[str, Any]:
        """Return the corpus scores by name, as JSON can hold them; CIDEr also under its name in the paper, CIDEr-D."""
        return {
            **{name: metric.corpus for name, metric in self.metrics.items()},
            "CIDEr-D": self.metrics["CIDEr"].corpus,
            "exact": self.exact,
            "base_name": self.base,
        }


def score_captions(
    captions: Sequence[Words],
    references: Sequence[Sequence[Words]],
    *,
    java: Iterable[str] = (),
    right_base: Sequence[bool] | None = None,
) -> Scores:
    """Score captions against reference captions.

    Parameters
    ----------
    captions : sequence of N captions
        Each a list of words.
    references : sequence of N sequences of captions
        The true captions of each picture.
    java : iterable of str
        Additional metrics of `JAVA_METRICS`.
    right_base : sequence of N bool, optional
        Which captions have the right base name.

    Returns
    -------
    Scores
        The scores of all N captions.

    Raises
    ------
    TypeError, ValueError
        As for `capgpu.metrics.corpus_bleu`.
    MissingExtraError, OSError
        As for `capgpu.metrics.meteor_spice.meteor`.
    """
    metrics = coco_scores(captions, references)
    metrics |= {name: JAVA_METRICS[name](captions, references) for name in java}
    base = None if right_base is None else sum(right_base) / len(right_base)
    return Scores(metrics, exact_match(captions, references), base)


def has_rare_words(references: Sequence[Sequence[Words]]) -> bool:
    """Return whether some word occurs in the true captions of some pictures, but not of all: CIDEr weighs no others.

    Parameters
    ----------
    references : sequence of N sequences of captions
        The true captions of each picture.

    Returns
    -------
    bool
        False for a single picture.
    """
    vocabularies = [{word for caption in group for word in caption} for group in references]
    return any(words != vocabularies[0] for words in vocabularies)
