"""Minibatches of captions for the model's tests, each with a case that is easily computed wrongly."""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels import cells
from oracles.recurrences import Floats

#: Ids as the data sets number them.
WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, "<UNK>": 3, "cat": 4, "dog": 5, "red": 6}
#: The recurrent cells.
CELLS = tuple(cells.CELLS)
SIZES = {"input_dim": 3, "wordvec_dim": 4, "hidden_dim": 5}

Captions = np.ndarray[Any, np.dtype[np.int64]]


def captions_of(*rows: list[int]) -> Captions:
    """Return rows of word ids as an array."""
    return np.array(rows)


CAPTIONS = {
    "padded": captions_of([1, 4, 2, 0, 0], [1, 6, 5, 6, 2], [1, 2, 0, 0, 0]),
    "unpadded": captions_of([1, 4, 5, 2], [1, 6, 6, 2]),
    "NULL inside": captions_of([1, 0, 5, 0, 2, 0], [0, 4, 0, 0, 5, 2], [1, 4, 2, 0, 0, 0]),
    "NULL input first": captions_of([0, 4, 2], [0, 0, 5]),
    "an empty caption": captions_of([1, 4, 2, 0], [0, 0, 0, 0], [1, 0, 0, 0]),
    "two columns": captions_of([1, 4], [6, 2]),
    "one caption": captions_of([1, 4, 5, 6, 2, 0]),
    "one word over and over": captions_of([4, 4, 4, 4], [4, 4, 4, 0]),
}


def parameters(
    cell: str, words: int = len(WORDS), dtype: str = "float64", seed: int = 7, layers: int = 1, **sizes: int
) -> dict[str, Floats]:
    """Draw all parameters, biases too, on the host."""
    random = np.random.default_rng(seed)
    s = {**SIZES, **sizes}
    D, W, H = s["input_dim"], s["wordvec_dim"], s["hidden_dim"]
    gates, biases = cells.CELLS[cell].n_gates * H, cells.CELLS[cell].n_biases * H
    shapes = {
        "W_embed": (words, W),
        "W_proj": (D, H),
        "b_proj": (H,),
        "Wx": (W, gates),
        "Wh": (H, gates),
        "b": (biases,),
        **{
            f"{name}{layer}": shape
            for layer in range(2, layers + 1)
            for name, shape in (("Wx", (H, gates)), ("Wh", (H, gates)), ("b", (biases,)))
        },
        "W_vocab": (H, words),
        "b_vocab": (words,),
    }
    return {name: random.uniform(-1, 1, shape).astype(dtype) for name, shape in shapes.items()}


def features_for(captions: Captions, dtype: str = "float64", width: int = SIZES["input_dim"]) -> Floats:
    """Draw one feature vector a caption."""
    return np.random.default_rng(8).uniform(-1, 1, (len(captions), width)).astype(dtype)
