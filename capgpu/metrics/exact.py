"""Exact match: the share of captions that equal a reference."""

from __future__ import annotations

from collections.abc import Sequence

from capgpu.metrics.corpus import Words, check_captions

__all__ = ["exact_match"]


def exact_match(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Tell which share of the captions equals one of its references word for word.

    Parameters
    ----------
    captions, references
        As for `corpus_bleu`.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    TypeError, ValueError
        As for `corpus_bleu`.
    """
    check_captions(captions, references)
    pairs = zip(captions, references, strict=True)
    return sum(any(list(caption) == list(truth) for truth in truths) for caption, truths in pairs) / len(captions)
