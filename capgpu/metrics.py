"""How good captions are, against one or more true captions of the same picture.

Captions are lists of words here, as `capgpu.vocabulary.tokenize` gives them.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

__all__ = ["corpus_bleu", "exact_match"]

Words = Sequence[str]

# COCO's evaluation adds these above and below each fraction: no precision is 0 / 0 and none is exactly 0
_ABOVE, _BELOW = 1e-15, 1e-9


def corpus_bleu(captions: Sequence[Words], references: Sequence[Sequence[Words]], max_n: int = 4) -> list[float]:
    """Compute BLEU-1 to BLEU-n of a corpus as COCO's caption evaluation does.

    Clipped n-gram counts and lengths are summed over the corpus before anything is divided. The length that
    the brevity penalty compares with is, for each caption, that of the reference closest in length (the
    shorter of two equally close).

    Parameters
    ----------
    captions : sequence of N captions
        The captions to judge, each a list of words; an empty caption is allowed.
    references : sequence of N sequences of captions
        The true captions of each picture, at least one.
    max_n : int
        The longest n-grams counted.

    Returns
    -------
    list of float
        BLEU-1, ..., BLEU-`max_n`, each in [0, 1]. A score without a match is tiny and not 0, as with COCO.

    Raises
    ------
    TypeError
        For a caption that is a string: it would be judged letter by letter.
    ValueError
        For no captions, unequal numbers, a picture without references, or `max_n` below 1.

    Notes
    -----
    K. Papineni et al., "BLEU: a Method for Automatic Evaluation of Machine Translation", 2002;
    X. Chen et al., "Microsoft COCO Captions: Data Collection and Evaluation Server", 2015.
    """
    _check(captions, references)
    if max_n < 1:
        raise ValueError(f"max_n is {max_n}; wanted at least 1.")
    matches, totals = [0] * max_n, [0] * max_n
    length = closest_length = 0
    for caption, truths in zip(captions, references, strict=True):
        length += len(caption)
        closest_length += min((abs(len(truth) - len(caption)), len(truth)) for truth in truths)[1]
        ceiling: Counter[tuple[str, ...]] = Counter()
        for truth in truths:
            ceiling |= _ngrams(truth, max_n)
        for gram, count in _ngrams(caption, max_n).items():
            matches[len(gram) - 1] += min(count, ceiling[gram])
        for n in range(max_n):
            totals[n] += max(len(caption) - n, 0)
    ratio = (length + _ABOVE) / (closest_length + _BELOW)
    penalty = math.exp(1 - 1 / ratio) if ratio < 1 else 1.0
    scores, log_product = [], 0.0
    for n in range(max_n):
        log_product += math.log((matches[n] + _ABOVE) / (totals[n] + _BELOW))
        scores.append(penalty * math.exp(log_product / (n + 1)))
    return scores


def exact_match(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> float:
    """Tell which share of the captions equals one of its references word for word.

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
    _check(captions, references)
    pairs = zip(captions, references, strict=True)
    return sum(any(list(caption) == list(truth) for truth in truths) for caption, truths in pairs) / len(captions)


def _ngrams(words: Words, max_n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(words[start : start + n]) for n in range(1, max_n + 1) for start in range(len(words) - n + 1))


def _check(captions: Sequence[Words], references: Sequence[Sequence[Words]]) -> None:
    if len(captions) == 0:
        raise ValueError("captions is empty; there is nothing to judge.")
    if len(captions) != len(references):
        raise ValueError(
            f"there are {len(captions)} captions and references for {len(references)}; wanted one list of "
            "references a caption."
        )
    for i, (caption, truths) in enumerate(zip(captions, references, strict=True)):
        if len(truths) == 0:
            raise ValueError(f"references[{i}] is empty; wanted at least one true caption.")
        for what, words in ((f"captions[{i}]", caption), (f"a caption of references[{i}]", truths[0])):
            if isinstance(words, str):
                raise TypeError(
                    f"{what} is the string {words!r}; wanted a list of words. Split it with capgpu.vocabulary.tokenize."
                )
