"""Decoding by brute force, in float64: all possible captions with their probabilities."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import numpy as np

from oracles.captioner import advance, first_states
from oracles.recurrences import Floats

Words = tuple[int, ...]


class Writer:
    """Scores the next words of a partial caption of one picture."""

    def __init__(self, params: dict[str, Floats], feature: Floats, start: int = 1) -> None:
        self.params, self.feature, self.start = params, feature, start

    def next_log_probs(self, words: Words) -> Floats:
        """Return log p(word | words) of the whole vocabulary."""
        return self._after(words)[1]

    def log_prob(self, words: Words) -> float:
        """Return the log-probability of a caption, END included where it has one."""
        return float(sum(self.next_log_probs(words[:t])[word] for t, word in enumerate(words)))

    @cached_property
    def _known(self) -> dict[Words, Any]:
        return {}

    def _after(self, words: Words) -> Any:
        if words not in self._known:
            p = self.params
            if words:
                states, _ = self._after(words[:-1])
                word = words[-1]
            else:
                states, word = first_states(p, self.feature), self.start
            h, states = advance(p, word, states)
            scores = h @ p["W_vocab"] + p["b_vocab"]
            self._known[words] = states, scores - np.logaddexp.reduce(scores)
        return self._known[words]


def repeats(words: Words, n: int) -> bool:
    """Return whether an n-gram occurs twice."""
    runs = [words[i : i + n] for i in range(len(words) - n + 1)]
    return n > 0 and len(set(runs)) < len(runs)


def captions(
    choice: list[int], max_length: int, end: int = 2, min_length: int = 0, no_repeat_ngram: int = 0
) -> Iterator[Words]:
    """Yield every caption of the words in `choice` that ends with END or has the maximum length."""
    waiting: list[Words] = [()]
    while waiting:
        words = waiting.pop()
        for word in [*choice, end]:
            longer = (*words, word)
            if (word == end and len(words) < min_length) or repeats(longer, no_repeat_ngram):
                continue
            if word == end or len(longer) == max_length:
                yield longer
            else:
                waiting.append(longer)


def ranked(writer: Writer, captions: Iterator[Words], length_penalty: float = 0.0) -> list[tuple[float, Words]]:
    """Rank captions by log-probability over Wu et al.'s length penalty, the best first."""
    scored = [(writer.log_prob(words) / ((5 + len(words)) / 6) ** length_penalty, words) for words in captions]
    return sorted(scored, key=lambda pair: -pair[0])


def plain_beam(
    writer: Writer, choice: list[int], width: int, max_length: int, *, end: int = 2, n_best: int = 1,
    length_penalty: float = 0.0, early_stop: bool = False, min_length: int = 0, no_repeat_ngram: int = 0,
) -> list[tuple[float, Words]]:  # fmt: skip
    """Search with a beam over the words in `choice` and END, one hypothesis at a time: scores and captions."""
    living: list[tuple[float, Words]] = [(0.0, ())]
    finished: list[tuple[float, Words]] = []
    for length in range(1, max_length + 1):
        penalty = ((5 + length) / 6) ** length_penalty
        extended = []
        for total, words in living:
            log_probs = writer.next_log_probs(words)
            allowed = [
                word
                for word in sorted([*choice, end], key=lambda word: (-log_probs[word], word))
                if (word != end or length > min_length) and not repeats((*words, word), no_repeat_ngram)
            ]
            extended += [(total + log_probs[word], (*words, word)) for word in allowed[:width]]
        indices = [(score, None, words) for score, words in finished]
        indices += [(total / penalty, total, words) for total, words in extended]
        # what has ended comes first where scores are equal: the order of a stable sort
        indices = sorted(indices, key=lambda index: -index[0])[:width]
        fresh = [(score, total, words) for score, total, words in indices if total is not None]
        living = [(total, words) for _, total, words in fresh if words[-1] != end and length < max_length]
        finished += [(score, words) for score, _, words in fresh if words[-1] == end or length == max_length]
        finished = sorted(finished, key=lambda pair: -pair[0])[:width]
        if early_stop and len(finished) >= n_best:
            break
    return finished[:n_best]


def ids_of(backend, decoded):
    """Return the best caption of each picture as word ids, NULL after its end."""
    return backend.to_numpy(decoded.ids)[:, 0]


def without_null(row):
    """Return the words of a row of ids before the padding."""
    return tuple(word for word in row.tolist() if word != 0)
