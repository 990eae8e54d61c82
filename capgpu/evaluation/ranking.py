"""Which captions are the better ones: an order in which short and long ones can be compared."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from capgpu.metrics import cider_d

__all__ = ["attainment"]

Words = Sequence[str]


def attainment(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> npt.NDArray[np.float64]:
    """Compare each caption's CIDEr-D with the best that its own true captions reach.

    CIDEr-D by itself orders captions of one length: a caption of one word that is right word for word has a quarter
    of what one of four words has, for want of longer n-grams. Divided by what the true captions would reach as
    answers, a caption that equals the best of them has 1, however short.

    Parameters
    ----------
    captions, references
        As for `capgpu.metrics.corpus_bleu`.

    Returns
    -------
    numpy.ndarray of float64, shape (N,)
        0 for a caption that shares nothing with the truth, or where the truth itself reaches nothing.

    Raises
    ------
    TypeError, ValueError
        As for `capgpu.metrics.corpus_bleu`.
    """
    own = cider_d(captions, references).captions
    best = np.zeros_like(own)
    for k in range(max(map(len, references))):
        answers = [truths[min(k, len(truths) - 1)] for truths in references]
        best = np.maximum(best, cider_d(answers, references).captions)
    return np.divide(own, best, out=np.zeros_like(own), where=best > 0)
