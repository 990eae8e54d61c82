"""The smallest model the solver accepts, and data for it: one affine map from a picture to its words."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from capgpu.backend import array_namespace, asarray

WORDS = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"w{i}" for i in range(12))]


def captions_and_features(count: int, seed: int) -> dict[str, Any]:
    """Return random captions (START, words, END, padding) of random pictures, one picture a caption."""
    rng = np.random.default_rng(seed)
    captions = np.zeros((count, 8), dtype=np.int32)
    for row in captions:
        words = rng.integers(1, 6)
        row[0], row[1 : 1 + words], row[1 + words] = 1, rng.integers(4, len(WORDS), words), 2
    return {
        "captions": captions,
        "features": rng.standard_normal((count, 6)).astype(np.float32),
        "image_idxs": rng.permutation(count),
    }


def dataset(train: int = 23, val: int = 9, seed: int = 0) -> dict[str, Any]:
    """Return a data dictionary; no val split if `val` is 0."""
    data: dict[str, Any] = {"idx_to_word": WORDS, "word_to_idx": {word: i for i, word in enumerate(WORDS)}}
    for split, count in (("train", train), ("val", val)):
        if count:
            parts = captions_and_features(count, seed + len(split))
            data |= {f"{split}_{part}": array for part, array in parts.items()}
    return data


class TinyCaptioner:
    """Scores the words of a caption by ``features @ W_proj + b_vocab``, whatever their order.

    Parameters
    ----------
    dtype : str
        Floating dtype.
    output_dropout : float
        Only told to the solver: the keys it passes are collected in `keys`.
    before : callable, optional
        Called with the number of the call at the start of every `loss`.
    """

    def __init__(
        self,
        dtype: str = "float64",
        output_dropout: float = 0.0,
        before: Callable[[int], None] | None = None,
        length: int = 6,
    ) -> None:
        rng = np.random.default_rng(1)
        self.params: dict[str, Any] = {
            "W_proj": asarray(rng.standard_normal((length, len(WORDS))), dtype=dtype),
            "b_vocab": asarray(np.zeros(len(WORDS)), dtype=dtype),
        }
        self.dtype, self.output_dropout, self.before = dtype, output_dropout, before
        self.keys: list[int | None] = []
        self.calls = 0

    def loss(self, features: Any, captions: Any, *, dropout_key: int | None = None) -> tuple[Any, dict[str, Any]]:
        """Compute the cross-entropy of the words, summed, divided by the captions; and its gradients."""
        if self.before is not None:
            self.before(self.calls)
        self.calls += 1
        self.keys.append(dropout_key)
        host = np.stack([np.bincount(row[row != 0], minlength=len(WORDS)) for row in captions[:, 1:]])
        counts = asarray(host, dtype=self.dtype)
        xp = array_namespace(counts)
        features = xp.astype(features, counts.dtype)
        logits = features @ self.params["W_proj"] + self.params["b_vocab"]
        logits = logits - xp.max(logits, axis=1, keepdims=True)
        logp = logits - xp.log(xp.sum(xp.exp(logits), axis=1, keepdims=True))
        dlogits = (xp.exp(logp) * xp.sum(counts, axis=1, keepdims=True) - counts) / captions.shape[0]
        grads = {"W_proj": xp.matrix_transpose(features) @ dlogits, "b_vocab": xp.sum(dlogits, axis=0)}
        return -xp.sum(counts * logp) / captions.shape[0], grads
