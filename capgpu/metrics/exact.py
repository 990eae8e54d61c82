"""Exact match: the fraction of captions equal to a reference."""

from __future__ import annotations

from collections.abc import Sequence

from capgpu.metrics.corpus import Words, check_corpus

__all__ = ["exact_match"]


def exact_match(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Compute the fraction of captions equal to one of their references, word for word.

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
    check_corpus(captions, references)
    pairs = zip(captions, references, strict=True)
    return sum(any(list(caption) == list(truth) for truth in truths) for caption, truths in pairs) / len(captions)
