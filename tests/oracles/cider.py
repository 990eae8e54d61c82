"""CIDEr with penalties (CIDEr-D) and without, written out from the paper: reference results for `capgpu.metrics`."""

from __future__ import annotations

import math
from collections import Counter

Gram = tuple[str, ...]


def ngrams(words: list[str], n: int) -> Counter[Gram]:
    return Counter(tuple(words[i : i + n]) for i in range(len(words) - n + 1))


def plain_cider(
    captions: list[list[str]], references: list[list[list[str]]], *, clipped: bool, sigma: float | None
) -> list[float]:
    """Vedantam et al. 2015, times 10: equations 1 to 3 plain, equation 4 with `clipped` and a `sigma`."""
    scores = [0.0] * len(captions)
    for n in range(1, 5):
        pictures: Counter[Gram] = Counter()
        for truths in references:
            pictures.update(set().union(*(ngrams(truth, n) for truth in truths)))

        def weigh(words: list[str], n: int = n, pictures: Counter[Gram] = pictures) -> dict[Gram, float]:
            return {
                gram: count * math.log(len(captions) / max(pictures[gram], 1))
                for gram, count in ngrams(words, n).items()
            }

        for i, (caption, truths) in enumerate(zip(captions, references, strict=True)):
            candidate_vector = weigh(caption)
            for truth in truths:
                reference_vector = weigh(truth)
                dot = sum(
                    (min(weight, reference_vector.get(gram, 0.0)) if clipped else weight)
                    * reference_vector.get(gram, 0.0)
                    for gram, weight in candidate_vector.items()
                )
                norm = math.hypot(*candidate_vector.values()) * math.hypot(*reference_vector.values())
                if sigma is not None:
                    # COCO's evaluation counts lengths in pairs of words
                    difference = max(len(caption) - 1, 0) - max(len(truth) - 1, 0)
                    dot *= math.exp(-(difference**2) / (2 * sigma**2))
                scores[i] += 10 * dot / norm / len(truths) / 4 if norm > 0 else 0.0
    return scores
