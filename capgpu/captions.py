"""The result of captioning: text, words with their probabilities, and the picture that they belong to."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

__all__ = ["Caption"]


@dataclass(frozen=True)
class Caption:
    """A generated caption; ``str(caption)`` is its text.

    Attributes
    ----------
    text : str
        Text without special tokens, punctuation attached to words.
    tokens : tuple of str
        The words as the vocabulary has them. The last one is ``<END>``, unless the caption was cut at the maximum
        length.
    log_probabilities : tuple of float
        The model's log-probability of each token, in nats, independent of temperature and truncation.
    score : float
        By which several captions of a picture are ordered: the sum of the log-probabilities, divided by the length
        penalty of a beam search.
    source : str, int or None
        The picture's file, or its index among the arrays given; None if unknown.
    attention : tuple of tuple of float
        For each token, the weights that an attention model gave to the L cells of the picture's grid, row by row of the
        grid, when it chose the token; each sums to 1. Empty for other models, and where they were not asked for.

    Examples
    --------
    >>> from capgpu import Caption
    >>> caption = Caption("a cat", ("a", "cat", "<END>"), (-0.5, -0.25, -0.25), -1.0, "cat.jpg")
    >>> print(caption)
    a cat
    >>> f"{caption.probability:.3f}"
    '0.368'
    """

    text: str
    tokens: tuple[str, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    score: float = 0.0
    source: str | int | None = None
    attention: tuple[tuple[float, ...], ...] = ()

    def __str__(self) -> str:
        return self.text

    @property
    def log_probability(self) -> float:
        """Log-probability of the whole caption under the model, in nats."""
        return math.fsum(self.log_probabilities)

    @property
    def probability(self) -> float:
        """Probability of the whole caption under the model."""
        return math.exp(self.log_probability)

    @property
    def probabilities(self) -> tuple[float, ...]:
        """Probability of each token, given those before it."""
        return tuple(map(math.exp, self.log_probabilities))

    def as_json(self) -> dict[str, Any]:
        """Return the caption as values of JSON.

        Returns
        -------
        dict
            ``caption`` (the text), ``probability``, ``tokens`` and ``token_probabilities``.
        """
        return {
            "caption": self.text,
            "probability": self.probability,
            "tokens": list(self.tokens),
            "token_probabilities": list(self.probabilities),
        }
