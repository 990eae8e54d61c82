"""BLEU counted with dictionaries, one caption after the other: reference results for `capgpu.metrics`."""

from __future__ import annotations

import math
from collections import Counter

from oracles.cider import ngrams


def plain_bleu(captions: list[list[str]], references: list[list[list[str]]], max_n: int) -> list[float]:
    """Papineni et al. 2002 with COCO's closest lengths and the small numbers it adds to each fraction."""
    scores, log_product = [], 0.0
    length = sum(map(len, captions))
    closest = sum(
        min((abs(len(truth) - len(caption)), len(truth)) for truth in truths)[1]
        for caption, truths in zip(captions, references, strict=True)
    )
    ratio = (length + 1e-15) / (closest + 1e-9)
    penalty = math.exp(min(1 - 1 / ratio, 0.0))
    for n in range(1, max_n + 1):
        matches = total = 0
        for caption, truths in zip(captions, references, strict=True):
            max_count: Counter[tuple[str, ...]] = Counter()
            for truth in truths:
                max_count |= ngrams(truth, n)
            counts = ngrams(caption, n)
            matches += sum((counts & max_count).values())
            total += sum(counts.values())
        log_product += math.log((matches + 1e-15) / (total + 1e-9))
        scores.append(penalty * math.exp(log_product / n))
    return scores
