"""All decoders behind one face: settings that say how captions are written, as options and files hold them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from capgpu.backend import Array
from capgpu.decode.beam import beam_search
from capgpu.decode.rules import Decoded
from capgpu.decode.tracks import greedy, sample

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN

__all__ = ["Decoding"]


@dataclass(frozen=True, kw_only=True)
class Decoding:
    """How to write captions: greedily, unless a beam or a temperature is given.

    Attributes
    ----------
    beam : int
        Above 1: beam search of this width, see `beam_search`.
    length_penalty : float
        Of the beam search.
    temperature : float or None
        Sampling, see `sample`.
    top_k, top_p : int or None, float or None
        Of the sampling; either of them alone samples with temperature 1.
    seed : int
        Of the sampling.
    max_length, min_length, no_repeat_ngram, suppress_unk
        As for `greedy`.

    Raises
    ------
    ValueError
        For settings that exclude each other.
    """

    beam: int = 1
    length_penalty: float = 0.0
    temperature: float | None = None
    top_k: int | None = None
    top_p: float | None = None
    seed: int = 0
    max_length: int = 30
    min_length: int = 0
    no_repeat_ngram: int = 0
    suppress_unk: bool = False

    def __post_init__(self) -> None:
        if self.samples and self.beam != 1:
            raise ValueError("a beam search leaves nothing to chance: give a beam, or temperature, top_k and top_p.")
        if self.length_penalty != 0 and self.beam == 1:
            raise ValueError("length_penalty ranks the captions of a beam search: give a beam above 1 with it.")

    @property
    def samples(self) -> bool:
        """Whether words are drawn at random."""
        return any(value is not None for value in (self.temperature, self.top_k, self.top_p))

    def __call__(self, model: CaptioningRNN, features: Array, first: int = 0) -> Decoded:
        """Write captions.

        Parameters
        ----------
        model : CaptioningRNN
            Its vocabulary needs ``<START>`` and ``<END>``.
        features : array, shape (N, D)
            Image features, in the library of the parameters.
        first : int
            Number of the first picture, where `features` is a batch of many.

        Returns
        -------
        Decoded
            One caption a picture (K = 1).

        Raises
        ------
        TypeError, ValueError
            As `greedy`, `beam_search` and `sample`.
        """
        rules: dict[str, Any] = {
            name: getattr(self, name) for name in ("max_length", "min_length", "no_repeat_ngram", "suppress_unk")
        }
        if self.samples:
            return sample(
                model,
                features,
                temperature=1.0 if self.temperature is None else self.temperature,
                top_k=self.top_k,
                top_p=self.top_p,
                seed=self.seed,
                first=first,
                **rules,
            )
        if self.beam != 1:
            return beam_search(model, features, self.beam, length_penalty=self.length_penalty, **rules)
        return greedy(model, features, **rules)
