"""Caption metrics: captions against one or more reference captions of the same picture.

Captions are lists of words. With the words of `capgpu.tokens.coco_tokenize`, BLEU, ROUGE-L and CIDEr equal the
scores of COCO's evaluation, whose CIDEr is the paper's CIDEr-D.
"""

from capgpu.metrics.bleu import BleuScore, bleu, corpus_bleu
from capgpu.metrics.cider import cider, cider_unpenalized
from capgpu.metrics.coco import coco_scores
from capgpu.metrics.corpus import MetricScore
from capgpu.metrics.exact import exact_match
from capgpu.metrics.rouge import rouge_l

__all__ = [
    "BleuScore",
    "MetricScore",
    "bleu",
    "cider",
    "cider_unpenalized",
    "coco_scores",
    "corpus_bleu",
    "exact_match",
    "rouge_l",
]
