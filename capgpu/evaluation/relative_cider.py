"""CIDEr relative to the best reference caption: a score by which short and long captions can be ranked."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from capgpu.metrics import cider

__all__ = ["relative_cider"]

Words = Sequence[str]


def relative_cider(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> npt.NDArray[np.float64]:
    """Divide each caption's CIDEr by the largest CIDEr of its reference captions.

    CIDEr itself ranks captions of one length only: a correct caption of one word has a quarter of the score of a
    correct one of four words, since it has no longer n-grams. Relative to the score of the best reference, a caption
    that equals it has 1, however short.

    Parameters
    ----------
    captions, references
        As for `capgpu.metrics.corpus_bleu`.

    Returns
    -------
    numpy.ndarray of float64, shape (N,)
        0 for captions that share nothing with the references, and where all references have CIDEr 0.

    Raises
    ------
    TypeError, ValueError
        As for `capgpu.metrics.corpus_bleu`.
    """
    scores = cider(captions, references).captions
    best = np.zeros_like(scores)
    for k in range(max(map(len, references))):
        candidates = [truths[min(k, len(truths) - 1)] for truths in references]
        best = np.maximum(best, cider(candidates, references).captions)
    return np.divide(scores, best, out=np.zeros_like(scores), where=best > 0)
