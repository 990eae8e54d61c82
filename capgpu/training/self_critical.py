"""Self-critical sequence training: captions are drawn, scored, and made more or less probable by their score.

    loss = -1/M sum over the M drawn captions of (reward - baseline) log p(caption)

Its gradient is an estimate of that of the negative expected reward (policy gradient, Williams 1992); the baseline
lowers its variance and leaves its mean. S. J. Rennie et al., "Self-Critical Sequence Training for Image Captioning",
2017, take the reward of the greedy caption; R. Luo, "A Better Variant of Self-Critical Sequence Training", 2020, the
mean reward of the other captions drawn for the picture.

The loss is that of `capgpu.model.CaptioningRNN.loss` with ``weights = reward - baseline``.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import numpy.typing as npt

from capgpu import decode
from capgpu.backend import Array, array_namespace, to_numpy
from capgpu.captioner import announce_decoding
from capgpu.data.arrays import split_arrays
from capgpu.data.batches import rank_rows
from capgpu.distributed import ALONE, Communicator
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.metrics.rewards import CaptionRewards
from capgpu.model import CaptioningRNN
from capgpu.parameters import all_finite
from capgpu.random import fold_key
from capgpu.sequence import after_start, rows_of_grids
from capgpu.training.agreement import PATIENT_STEPS, collect_rows
from capgpu.validation import check_count, check_positive
from capgpu.visible_text import short
from capgpu.vocabulary import END, NULL, START, UNK, UNKNOWN_WORD

__all__ = ["Baseline", "Critic", "SampledCaptions", "SelfCritical", "sharpen"]

Baseline = Literal["samples", "greedy"]

#: Number of the key of the random words among those of a step; dropout counts from 0, up to the number of layers.
_KEY = -1
#: Logit of words that are never drawn: its exponential is 0 beside any other, and half precision can hold it.
_IMPOSSIBLE = -3e4


@dataclass(frozen=True, kw_only=True)
class SelfCritical:
    """Settings of self-critical training, for `capgpu.solver.CaptioningSolver`.

    Parameters
    ----------
    samples : int
        Captions drawn for each picture; two or more for the baseline ``"samples"``.
    reward : mapping of str to float
        Factors of the scores in the reward, `capgpu.metrics.rewards.REWARDS`: ``{"CIDEr": 1.0, "BLEU-4": 0.5}``.
    baseline : {"samples", "greedy"}
        What a caption's reward is compared with: the mean reward of the picture's other captions, or the reward of its
        greedy caption.
    max_length : int, optional
        Words of a drawn caption at most, END included. By default those of the longest training caption.

    Raises
    ------
    TypeError, ValueError
        For settings out of range.

    Examples
    --------
    >>> import capgpu
    >>> capgpu.SelfCritical(samples=8, reward={"CIDEr": 1.0, "BLEU-4": 0.5}).baseline
    'samples'
    """

    samples: int = 5
    reward: Mapping[str, float] = field(default_factory=lambda: {"CIDEr": 1.0})
    baseline: Baseline = "samples"
    max_length: int | None = None

    def __post_init__(self) -> None:
        if self.baseline not in get_args(Baseline):
            raise InvalidValueError(
                f"baseline: expected one of {', '.join(map(repr, get_args(Baseline)))}, got {short(self.baseline)}."
            )
        check_count("samples", self.samples, 2 if self.baseline == "samples" else 1)
        check_count("max_length", 1 if self.max_length is None else self.max_length, 1)
        if not isinstance(self.reward, Mapping):
            raise InvalidTypeError(
                f"reward: expected a dictionary such as {{'CIDEr': 1.0}}, got a {type(self.reward).__name__}."
            )

    def as_json(self) -> dict[str, Any]:
        """Return the settings as JSON values."""
        return {
            "samples": int(self.samples),
            "reward": {name: float(weight) for name, weight in self.reward.items()},
            "baseline": self.baseline,
            "max_length": None if self.max_length is None else int(self.max_length),
        }


def sharpen(model: CaptioningRNN, factor: float) -> None:
    """Multiply the logits of a model, before self-critical training.

    Greedy captions stay the same, and drawn ones become more like them. A model that is unsure draws captions that are
    far worse than its greedy ones; trained on those, it first learns words that fit most pictures, and its greedy
    captions become worse.

    Parameters
    ----------
    model : CaptioningRNN
        The model, whose ``W_vocab`` and ``b_vocab`` are replaced.
    factor : float
        The factor, above 0; 1 changes nothing.

    Raises
    ------
    TypeError, ValueError
        For a factor that is no number above 0, or with which parameters would be infinite or 0; another one than 1 with
        tied weights, where ``W_vocab`` is ``W_embed``.

    Examples
    --------
    >>> import numpy as np, capgpu
    >>> from capgpu.training.self_critical import sharpen
    >>> model = capgpu.CaptioningRNN({"<NULL>": 0, "<START>": 1, "<END>": 2, "cat": 3}, 4, 5, 6, "lstm", seed=0)
    >>> before = capgpu.to_numpy(model.params["W_vocab"])
    >>> sharpen(model, 2.0)
    >>> bool((capgpu.to_numpy(model.params["W_vocab"]) == 2 * before).all())
    True
    """
    check_positive("sharpen", factor)
    if factor == 1:
        return
    if model.tie_weights:
        raise InvalidValueError(
            f"sharpen: expected 1 for a model with tied weights, whose word vectors make its logits, got {factor}."
        )
    scaled = {}
    with np.errstate(over="ignore"):
        for name in ("W_vocab", "b_vocab"):
            array = model.params[name]
            held = array_namespace(array).asarray(factor, dtype=array.dtype, device=array.device)
            scaled[name] = array * held
            if float(held) == 0 or not all_finite(scaled[name]):
                raise InvalidValueError(
                    f"sharpen: expected a factor that keeps {name} within {model.dtype}, got {factor}. Use one nearer "
                    "to 1."
                )
    model.params.update(scaled)


class SampledCaptions(NamedTuple):
    """The captions that a step is made of, those of each picture in a row.

    Attributes
    ----------
    captions : numpy.ndarray of int, shape (M, T + 1)
        Drawn captions, with START.
    features : array, shape (m, ...)
        The features of the pictures of this rank's captions; of all captions where one process draws them.
    weights : numpy.ndarray of float64, shape (M,)
        Reward less baseline.
    reward : float
        Mean reward of the captions; NaN if the model's probabilities are not finite.
    """

    captions: npt.NDArray[Any]
    features: Array
    weights: npt.NDArray[np.float64]
    reward: float


class Critic:
    """Draws captions of training pictures, and weighs them by their rewards.

    Parameters
    ----------
    settings : SelfCritical
        The settings.
    model : CaptioningRNN
        A model whose vocabulary has ``<START>`` and ``<END>``.
    data : mapping
        The course's data dictionary.
    ranks : Communicator
        The processes that draw together, each for its own pictures.

    Raises
    ------
    TypeError
        For settings of another type, rewards whose factors are no numbers, and models that write no captions.
    ValueError
        For a vocabulary without START or END, a model with label smoothing, or unknown rewards.
    """

    def __init__(
        self, settings: SelfCritical, model: Any, data: Mapping[str, Any], ranks: Communicator = ALONE
    ) -> None:
        self.settings, self._ranks, self._steps = settings, ranks, 0
        if not isinstance(settings, SelfCritical):
            raise InvalidTypeError(f"self_critical: expected a capgpu.SelfCritical, got {short(settings)}.")
        if not all(callable(getattr(model, method, None)) for method in ("begin", "step")):
            raise InvalidTypeError(
                f"self_critical: expected a model that writes captions, such as CaptioningRNN, got a "
                f"{type(model).__name__} without begin and step."
            )
        smoothing = getattr(model, "label_smoothing", 0.0)
        if smoothing > 0:
            raise InvalidValueError(
                f"self_critical: expected a model with label_smoothing=0, got {smoothing}: the loss of smoothed labels "
                "is not the captions' log-probability. Set model.label_smoothing = 0.0."
            )
        captions, _, images = split_arrays(data, "train")
        words = getattr(model, "word_to_idx", {})
        missing = [word for word in (NULL, START, END) if word not in words]
        if missing:
            raise InvalidValueError(
                f"self_critical: expected a vocabulary with {', '.join(missing)}, by which captions are drawn, got one "
                "without."
            )
        self._start = words[START]
        self._never_drawn = [words[word] for word in (NULL, START, UNK, UNKNOWN_WORD) if word in words]
        unknown = [words[word] for word in (UNK, UNKNOWN_WORD) if word in words]
        self.rewards = CaptionRewards(captions, images, settings.reward, words[NULL], unknown)
        if isinstance(model, CaptioningRNN):
            announce_decoding(model.params, drawn=True)
        self._max_length = captions.shape[1] - 1 if settings.max_length is None else settings.max_length
        first = np.unique(images, return_index=True)[1]
        self._pictures = {"train_captions": captions[first], "train_image_idxs": images[first]}

    def pictures(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Return the data dictionary with each training picture once, with its first caption."""
        return {**data, **self._pictures}

    @contextmanager
    def policy(self, model: Any) -> Generator[None, None, None]:
        """Set the probability of the words that are never drawn to 0 in the model, as the sampler does.

        The loss is then that of the distribution that the captions come from. With the model's own, the estimate of the
        gradient is biased: where captions score below the baseline, all drawn words become less probable, and what is
        never drawn takes their probability, until the model writes nothing else.

        Parameters
        ----------
        model : CaptioningRNN
            The model. Its ``b_vocab`` is another array meanwhile.
        """
        bias = model.params["b_vocab"]
        xp = array_namespace(bias)
        never = np.zeros(bias.shape, bool)
        never[self._never_drawn] = True
        replaced = xp.where(xp.asarray(never, device=bias.device), xp.full_like(bias, _IMPOSSIBLE), bias)
        # CuPy's where makes float32 of bfloat16
        model.params["b_vocab"] = xp.astype(replaced, bias.dtype, copy=False)
        try:
            yield
        finally:
            model.params["b_vocab"] = bias

    def draw(self, model: Any, features: Array, images: npt.NDArray[Any], key: int) -> SampledCaptions:
        """Draw captions of the pictures of a minibatch, and weigh them.

        Each rank draws those of its own pictures, and gets all. The random numbers of a caption depend on its place in
        the minibatch, not on the rank that draws it.

        Parameters
        ----------
        model : CaptioningRNN
            The model.
        features : array, shape (n, ...)
            Features of this rank's pictures, see `capgpu.data.batches.rank_rows`, in the library of the parameters.
        images : numpy.ndarray of int, shape (N,)
            The rows of all pictures in ``train_features``.
        key : int
            The same key draws the same captions from the same parameters.

        Returns
        -------
        SampledCaptions
            `samples` captions of each picture.
        """
        xp = array_namespace(features)
        samples = int(self.settings.samples)
        pictures = rank_rows(images.size, self._ranks.rank, self._ranks.size)
        rows = rows_of_grids(pictures, samples)
        repeated = xp.take(features, xp.arange(rows.size, device=features.device) // samples, axis=0)
        ids = np.zeros((rows.size, self._max_length), np.int32)
        rewards = weights = np.full(rows.size, np.nan)
        # no other rank waits in vain for the captions of one that fails: all get its NaN
        with suppress(FloatingPointError):
            if rows.size:
                seed, places = fold_key(key, _KEY), xp.asarray(rows, device=features.device)
                drawn = decode.sample(model, repeated, seed=seed, rows=places, max_length=self._max_length)
                ids = to_numpy(drawn.ids)[:, 0]
                rewards, weights = self._weigh(model, features, images[pictures], ids)
        patient = self._steps < PATIENT_STEPS
        self._steps += 1
        ids, rewards, weights = collect_rows(
            self._ranks, rows, images.size * samples, ids, rewards, weights, patient=patient
        )
        return SampledCaptions(after_start(ids, self._start), repeated, weights, float(rewards.mean()))

    def ranks_without_finite_weights(self, weights: npt.NDArray[np.float64]) -> list[int]:
        """Return the ranks that could draw no captions, where several draw together.

        Parameters
        ----------
        weights : numpy.ndarray of float64, shape (M,)
            As from `draw`.

        Returns
        -------
        list of int
            Rising; empty for a single process.
        """
        if self._ranks.size == 1:
            return []
        pictures = np.flatnonzero(np.isnan(weights)) // int(self.settings.samples)
        return [int(rank) for rank in np.unique(pictures % self._ranks.size)]

    def _weigh(
        self, model: Any, features: Array, images: npt.NDArray[Any], ids: npt.NDArray[Any]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return the rewards of drawn captions, and their rewards less baseline."""
        samples = self.settings.samples
        rewards = self.rewards(ids, np.repeat(images, samples))
        of_pictures = rewards.reshape(-1, samples)
        if self.settings.baseline == "greedy":
            best = decode.greedy(model, features, max_length=self._max_length)
            baselines = self.rewards(to_numpy(best.ids)[:, 0], images)[:, None]
        else:
            baselines = (of_pictures.sum(axis=1, keepdims=True) - of_pictures) / (samples - 1)
        return rewards, (of_pictures - baselines).reshape(-1)
