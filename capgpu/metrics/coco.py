"""All scores of COCO's caption evaluation in one pass."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from capgpu.metrics.bleu import clipped_matches, score_matches
from capgpu.metrics.cider import Cosines, weighted_ngrams
from capgpu.metrics.corpus import Corpus, MetricScore, Words, encode_corpus, split_words
from capgpu.metrics.rouge import score_rouge_l

__all__ = ["METRIC_NAMES", "coco_scores", "score_corpus"]

#: The names of the scores of `coco_scores`.
METRIC_NAMES = ("BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L", "CIDEr")


def coco_scores(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> dict[str, MetricScore]:
    """Compute BLEU-1 to BLEU-4, ROUGE-L and CIDEr as COCO's caption evaluation does.

    Parameters
    ----------
    captions, references
        As for `corpus_bleu`; split with `capgpu.tokens.coco_tokenize` for the scores of COCO's evaluation.

    Returns
    -------
    dict of str to MetricScore
        ``"BLEU-1"`` to ``"BLEU-4"``, ``"ROUGE-L"`` and ``"CIDEr"``.

    Raises
    ------
    TypeError, ValueError
        As for `corpus_bleu`.
    """
    return score_corpus(encode_corpus(captions, references))


def score_corpus(corpus: Corpus) -> dict[str, MetricScore]:
    """Compute the scores of `coco_scores` for an encoded corpus.

    Parameters
    ----------
    corpus : Corpus
        As from `encode_corpus`.

    Returns
    -------
    dict of str to MetricScore
        As from `coco_scores`.
    """
    rouge = score_rouge_l(corpus)
    word_corpus = split_words(corpus)
    del corpus  # may be large; the next steps allocate more
    matches, cosines = [], Cosines(word_corpus)
    for ngrams in weighted_ngrams(word_corpus):
        matches.append(clipped_matches(word_corpus, ngrams.shared))
        cosines.add(ngrams)
    bleu = score_matches(word_corpus, matches)
    columns: npt.NDArray[np.float64] = bleu.captions.T
    scores = {f"BLEU-{n}": MetricScore(*pair) for n, pair in enumerate(zip(bleu.corpus, columns, strict=True), start=1)}
    return {**scores, "ROUGE-L": rouge, "CIDEr": cosines.cider()}
