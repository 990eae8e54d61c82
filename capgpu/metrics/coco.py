"""The figures of COCO's caption evaluation, together."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from capgpu.metrics.consensus import score_cider_d
from capgpu.metrics.corpus import MetricScore, Words, read_corpus, split_words
from capgpu.metrics.precision import score_bleu
from capgpu.metrics.subsequence import score_rouge_l

__all__ = ["coco_scores"]


def coco_scores(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> dict[str, MetricScore]:
    """Compute BLEU-1 to BLEU-4, ROUGE-L and CIDEr-D as COCO's caption evaluation does.

    Parameters
    ----------
    captions, references
        As for `corpus_bleu`; split with `capgpu.tokens.coco_tokenize` for the figures of COCO.

    Returns
    -------
    dict of str to MetricScore
        ``"BLEU-1"`` to ``"BLEU-4"``, ``"ROUGE-L"`` and ``"CIDEr-D"``, which COCO calls CIDEr.

    Raises
    ------
    TypeError, ValueError
        As for `corpus_bleu`.
    """
    corpus = read_corpus(captions, references)
    plain = split_words(corpus)
    bleu = score_bleu(plain)
    columns: npt.NDArray[np.float64] = bleu.captions.T
    scores = {f"BLEU-{n}": MetricScore(*pair) for n, pair in enumerate(zip(bleu.corpus, columns, strict=True), start=1)}
    return {**scores, "ROUGE-L": score_rouge_l(corpus), "CIDEr-D": score_cider_d(plain)}
