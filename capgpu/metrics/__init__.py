"""How good captions are, against one or more true captions of the same picture.

Captions are lists of words here. With the words of `capgpu.tokens.coco_tokenize`, BLEU, ROUGE-L and CIDEr-D are the
figures of COCO's evaluation.
"""

from capgpu.metrics.coco import caption_scores, coco_scores
from capgpu.metrics.consensus import cider, cider_d
from capgpu.metrics.corpus import MetricScore
from capgpu.metrics.exact import exact_match
from capgpu.metrics.precision import BleuScore, bleu, corpus_bleu
from capgpu.metrics.subsequence import rouge_l

__all__ = [
    "BleuScore",
    "MetricScore",
    "bleu",
    "caption_scores",
    "cider",
    "cider_d",
    "coco_scores",
    "corpus_bleu",
    "exact_match",
    "rouge_l",
]
