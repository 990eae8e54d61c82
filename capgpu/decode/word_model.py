"""What decoders need of a model: a vocabulary, and scores of the next word."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from capgpu.backend import Array

__all__ = ["WordModel"]


class WordModel(Protocol):
    """A model that scores next words: `capgpu.model.CaptioningRNN`, or `capgpu.decode.ensemble.Ensemble`.

    Attributes
    ----------
    word_to_idx, idx_to_word : dict
        The vocabulary.
    params : dict of str to array
        With ``b_vocab``, shape (V,), in whose library and on whose device captions are decoded.
    dtype : numpy.dtype
        Of the parameters.
    """

    word_to_idx: dict[str, int]
    idx_to_word: dict[int, str]
    params: dict[str, Array]
    dtype: Any

    @property
    def config(self) -> Mapping[str, Any]:
        """Sizes, with ``input_dim`` and ``hidden_dim``."""

    @property
    def attends(self) -> bool:
        """Whether captions are decoded from grids of features, (N, L, D)."""

    @property
    def null(self) -> int:
        """Id of NULL."""

    def begin(self, features: Array, reads: int = 0) -> Any:
        """Compute the state before START is read; see `capgpu.model.CaptioningRNN.begin`."""

    def step(self, state: Any, words: Array, parents: Array | None = None) -> tuple[Array, Any]:
        """Read one word and score the next; see `capgpu.model.CaptioningRNN.step`."""

    def attention(self, features: Array, captions: Array) -> Array:
        """Compute where a model looks while it reads captions; see `capgpu.model.CaptioningRNN.attention`."""
