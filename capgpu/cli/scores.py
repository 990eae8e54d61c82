"""Captions against the truth, beside those of the nearest training pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from capgpu.cli.datasets import Dataset
from capgpu.evaluation.neighbours import nearest_neighbours
from capgpu.metrics import corpus_bleu, exact_match
from capgpu.vocabulary import tokenize

__all__ = ["Scores", "neighbour_captions", "score_captions"]


@dataclass(frozen=True)
class Scores:
    """How good captions are, each figure a share from 0 to 1.

    Attributes
    ----------
    bleu : tuple of float
        BLEU-1 to BLEU-4 of the corpus.
    exact : float
        Captions that equal a true one word for word.
    base : float or None
        Captions with the right base name; None where captions have none.
    """

    bleu: tuple[float, ...]
    exact: float
    base: float | None


def score_captions(
    captions: Sequence[str], truths: Sequence[Sequence[str]], base_name: Callable[[str], str] | None = None
) -> Scores:
    """Score captions against the true ones.

    Parameters
    ----------
    captions : sequence of N str
        What a model wrote.
    truths : sequence of N sequences of str
        The true captions of each picture; case does not count.
    base_name : callable, optional
        Tells what a caption shows without the variant.

    Returns
    -------
    Scores
        Over all N.

    Raises
    ------
    ValueError
        For no captions, or not as many as pictures with truths.
    """
    words = [tokenize(caption) for caption in captions]
    true_words = [[tokenize(truth) for truth in own] for own in truths]
    bleu, exact = tuple(corpus_bleu(words, true_words)), exact_match(words, true_words)
    if base_name is None:
        return Scores(bleu, exact, None)
    right = [
        base_name(caption) in {base_name(truth) for truth in own} for caption, own in zip(captions, truths, strict=True)
    ]
    return Scores(bleu, exact, sum(right) / len(right))


def neighbour_captions(dataset: Dataset, split: str) -> list[str]:
    """Caption each picture with the first caption of the nearest training picture.

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
    nearest = nearest_neighbours(dataset.features(split), dataset.features("train"))
    truths = dataset.truths("train")
    return [truths[image][0] for image in nearest.tolist()]
