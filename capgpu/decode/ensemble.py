"""Ensembles: several models write a caption together, by the mean of their probabilities of the next word."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from capgpu.backend import Array, array_namespace
from capgpu.dtypes import widened
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.kernels.reference.top_k import log_softmax
from capgpu.visible_text import short

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN

__all__ = ["Ensemble", "EnsembleState"]


class EnsembleState(NamedTuple):
    """The recurrent states of all models.

    Attributes
    ----------
    states : tuple of DecodingState
        That of each model.
    """

    states: tuple[Any, ...]

    @property
    def h(self) -> Array:
        """The hidden state of the first model, whose dtype that of the scores follows."""
        hidden: Array = self.states[0].h
        return hidden


class Ensemble:
    """Several models as one, for decoding: the probability of a word is the mean of theirs.

    Parameters
    ----------
    models : sequence of CaptioningRNN
        One or more, of any cells and sizes, with the same vocabulary, for the same features.
    names : sequence of str, optional
        What errors call them; by default their numbers from 1.

    Attributes
    ----------
    models : tuple of CaptioningRNN
        The models.
    word_to_idx, idx_to_word, params, dtype
        Those of the first.

    Raises
    ------
    TypeError
        For anything but a sequence of models.
    ValueError
        For no models, vocabularies that differ (naming the first difference), or features of different kinds or
        lengths.

    Notes
    -----
    The scores that `step` returns are logarithms of the mean of the probabilities. Those of one model are its own.

    Examples
    --------
    >>> import numpy as np, capgpu
    >>> from capgpu.decode import Ensemble, beam_search
    >>> words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3, "cat": 4}
    >>> models = [capgpu.CaptioningRNN(words, 4, 5, 6, cell, seed=0) for cell in ("rnn", "lstm")]
    >>> beam_search(Ensemble(models), capgpu.asarray(np.ones((2, 4), np.float32)), 3, max_length=5).ids.shape
    (2, 1, 5)
    """

    def __init__(self, models: Sequence[CaptioningRNN], names: Sequence[str] | None = None) -> None:
        if not isinstance(models, Sequence) or not all(hasattr(model, "word_to_idx") for model in models):
            raise InvalidTypeError(f"models: expected a list of models, got {short(models)}.")
        if not models:
            raise InvalidValueError("models: expected at least one model, got none.")
        names = [f"model {number}" for number in range(1, len(models) + 1)] if names is None else names
        if len(names) != len(models):
            raise InvalidValueError(f"names: expected {len(models)}, one for each model, got {len(names)}.")
        first = models[0]
        for name, model in zip(names, models, strict=True):
            _check_vocabulary(first.word_to_idx, model.word_to_idx, names[0], name)
            if model.attends != first.attends:
                kind, other = ("grids", "vectors") if first.attends else ("vectors", "grids")
                raise InvalidValueError(
                    f"{name}: expected a model that reads {kind} of features, as {names[0]}, got one of {other}. All "
                    "models of an ensemble read the same features."
                )
            if model.config["input_dim"] != first.config["input_dim"]:
                raise InvalidValueError(
                    f"{name}: expected a model of features of length {first.config['input_dim']}, as {names[0]}, got "
                    f"{model.config['input_dim']}. All models of an ensemble read the same features."
                )
        self.models = tuple(models)
        self.word_to_idx, self.idx_to_word = first.word_to_idx, first.idx_to_word
        self.params, self.dtype = first.params, first.dtype

    @property
    def config(self) -> Mapping[str, Any]:
        """Sizes: the length of features, and of the hidden states of all models together."""
        return {
            "input_dim": self.models[0].config["input_dim"],
            "hidden_dim": sum(model.config["hidden_dim"] for model in self.models),
        }

    @property
    def attends(self) -> bool:
        """Whether the models read grids of features, (N, L, D)."""
        return self.models[0].attends

    @property
    def null(self) -> int:
        """Id of NULL."""
        return self.models[0].null

    def begin(self, features: Array, reads: int = 0) -> EnsembleState:
        """Compute the states before START is read.

        Parameters
        ----------
        features, reads
            As for `capgpu.model.CaptioningRNN.begin`.

        Returns
        -------
        EnsembleState
            The states.

        Raises
        ------
        ValueError
            For features that do not fit, or are not finite.
        """
        return EnsembleState(tuple(model.begin(features, reads) for model in self.models))

    def step(self, state: EnsembleState, words: Array, parents: Array | None = None) -> tuple[Array, EnsembleState]:
        """Read one word and score the next.

        Parameters
        ----------
        state, words, parents
            As for `capgpu.model.CaptioningRNN.step`.

        Returns
        -------
        logits : array, shape (M, V)
            Logarithms of the mean of the models' probabilities.
        state : EnsembleState
            M rows each.
        """
        steps = [model.step(own, words, parents) for model, own in zip(self.models, state.states, strict=True)]
        states = EnsembleState(tuple(own for _, own in steps))
        if len(steps) == 1:
            return steps[0][0], states
        log_probs = [log_softmax(widened(logits)) for logits, _ in steps]
        xp = array_namespace(*log_probs)
        stacked = xp.stack([xp.astype(each, log_probs[0].dtype, copy=False) for each in log_probs])
        greatest = xp.max(stacked, axis=0)
        return greatest + xp.log(xp.mean(xp.exp(stacked - greatest[None, ...]), axis=0)), states

    def attention(self, features: Array, captions: Array) -> Array:
        """Compute where the models look while they read captions: the mean of their weights.

        Parameters
        ----------
        features, captions
            As for `capgpu.model.CaptioningRNN.attention`.

        Returns
        -------
        array, shape (N, T, L)
            As from `capgpu.model.CaptioningRNN.attention`.

        Raises
        ------
        TypeError, ValueError
            As `capgpu.model.CaptioningRNN.attention`.
        """
        maps = [model.attention(features, captions) for model in self.models]
        xp = array_namespace(*maps)
        return xp.mean(xp.stack([xp.astype(each, maps[0].dtype, copy=False) for each in maps]), axis=0)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({', '.join(map(repr, self.models))})"


def _check_vocabulary(first: Mapping[str, int], other: Mapping[str, int], first_name: str, name: str) -> None:
    """Check that two vocabularies are equal, naming the first id at which they are not."""
    if first == other:
        return
    words, other_words = ({index: word for word, index in ids.items()} for ids in (first, other))
    index = min(i for i in words.keys() | other_words.keys() if words.get(i) != other_words.get(i))
    expected, got = (short(found[index]) if index in found else "no word" for found in (words, other_words))
    raise InvalidValueError(
        f"{name}: expected the vocabulary of {first_name}, with {expected} for the id {index}, got {got}. The "
        "models of an ensemble are trained on data with one vocabulary."
    )
