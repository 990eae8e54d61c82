"""One configuration for all decoders, as command-line options and files hold it."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from capgpu.backend import Array
from capgpu.decode.beam import beam_search
from capgpu.decode.greedy import greedy
from capgpu.decode.result import DecodeResult, best_first, with_attention
from capgpu.decode.sampling import sample
from capgpu.decode.token_masks import SUPPRESS_UNK
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.random import fold_key
from capgpu.validation import check_count, check_flag, check_integer, check_not_negative

if TYPE_CHECKING:
    from capgpu.decode.word_model import WordModel

__all__ = ["GenerationConfig", "GenerationSettings", "OneCaptionSettings"]


class OneCaptionSettings(TypedDict, total=False):
    """The keyword arguments of `GenerationConfig` except ``captions``: for one caption per picture."""

    beam: int
    length_penalty: float
    temperature: float | None
    top_k: int | None
    top_p: float | None
    seed: int
    max_length: int
    min_length: int
    no_repeat_ngram: int
    suppress_unk: bool


class GenerationSettings(OneCaptionSettings, total=False):
    """The keyword arguments of `GenerationConfig`, for functions that pass them on."""

    captions: int
    attention: bool


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """Settings of caption generation: greedy decoding, unless a beam, a temperature, top-k or top-p is given.

    Attributes
    ----------
    beam : int
        Width of the beam search, see `beam_search`; 1 for none.
    length_penalty : float
        Length penalty of the beam search.
    temperature : float or None
        Temperature of the sampling, see `sample`.
    top_k, top_p : int or None, float or None
        Truncation of the sampling; without a temperature, the temperature is 1.
    seed : int
        Seed of the sampling.
    max_length, min_length, no_repeat_ngram
        As for `greedy`.
    suppress_unk : bool
        Whether to exclude ``<UNK>``, which says nothing about a picture.
    captions : int
        Captions per picture: the best of a beam search, or as many samples, which may be equal; the best first.
    attention : bool
        Whether to return the weights that a model with ``cell_type="attention"`` gave to the cells of the pictures.

    Raises
    ------
    TypeError, ValueError
        For a beam or captions that are no count, a seed that is no integer, flags that are neither True nor False, and
        settings that contradict each other.
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
    suppress_unk: bool = SUPPRESS_UNK
    captions: int = 1
    attention: bool = False

    def __post_init__(self) -> None:
        check_count("beam", self.beam, 1)
        check_count("captions", self.captions, 1)
        check_not_negative("length_penalty", self.length_penalty)
        check_flag("suppress_unk", self.suppress_unk)
        check_flag("attention", self.attention)
        check_integer("seed", self.seed)
        if self.captions > self.beam and not self.samples:
            remedy = f"Give beam={self.captions}, or a temperature to sample with."
            found = f"a beam of {self.beam}" if self.beam > 1 else "greedy decoding, which writes one"
            raise InvalidValueError(
                f"captions: expected at most {self.beam} with {found}, got {self.captions}. {remedy}"
            )
        if self.samples and self.beam != 1:
            raise InvalidValueError(
                f"beam: expected 1 with temperature, top_k or top_p, got {self.beam}. Beam search does not sample: "
                "give one or the other."
            )
        if self.length_penalty != 0 and self.beam == 1:
            raise InvalidValueError(
                f"length_penalty: expected 0 without beam search, got {self.length_penalty}. Give a beam above 1."
            )

    @classmethod
    def of(cls, **settings: Unpack[GenerationSettings]) -> GenerationConfig:
        """Return the configuration of keyword arguments that a function passes on.

        Parameters
        ----------
        **settings
            The settings.

        Returns
        -------
        GenerationConfig
            The configuration.

        Raises
        ------
        TypeError, ValueError
            For a setting that does not exist, and as for the class.
        """
        known = [field.name for field in fields(cls)]
        unknown = [name for name in settings if name not in known]
        if unknown:
            raise InvalidTypeError(f"settings: expected some of {', '.join(known)}, got {unknown[0]}.")
        return cls(**settings)

    @property
    def samples(self) -> bool:
        """Whether words are sampled."""
        return any(value is not None for value in (self.temperature, self.top_k, self.top_p))

    def __call__(self, model: WordModel, features: Array, first: int = 0) -> DecodeResult:
        """Generate captions.

        Parameters
        ----------
        model : WordModel
            A model whose vocabulary contains ``<START>`` and ``<END>``.
        features : array, shape (N, D), or (N, L, D) for a model with attention
            Image features, in the array library of the parameters.
        first : int
            Index of the first picture in the data set of which `features` is a batch.

        Returns
        -------
        DecodeResult
            K = `captions` per picture.

        Raises
        ------
        TypeError, ValueError
            As `greedy`, `beam_search` and `sample`; and for `attention` with a model of another cell.
        """
        result = self._decode(model, features, first)
        return with_attention(model, features, result) if self.attention else result

    def _decode(self, model: WordModel, features: Array, first: int) -> DecodeResult:
        constraints: dict[str, Any] = {
            name: getattr(self, name) for name in ("max_length", "min_length", "no_repeat_ngram", "suppress_unk")
        }
        if self.samples:
            draws = [
                sample(
                    model,
                    features,
                    temperature=1.0 if self.temperature is None else self.temperature,
                    top_k=self.top_k,
                    top_p=self.top_p,
                    seed=self.seed if number == 0 else fold_key(self.seed, number),
                    first=first,
                    **constraints,
                )
                for number in range(self.captions)
            ]
            return best_first(draws)
        if self.beam != 1:
            return beam_search(
                model, features, self.beam, n_best=self.captions, length_penalty=self.length_penalty, **constraints
            )
        return greedy(model, features, **constraints)
