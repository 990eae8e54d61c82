"""Evaluation of a model on a split, beside the nearest-neighbour baseline."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from capgpu.data.datasets import Dataset
from capgpu.decode import Ensemble, GenerationConfig
from capgpu.distributed import ALONE, Communicator
from capgpu.evaluation.captioning import write_captions
from capgpu.evaluation.match import match_base_names
from capgpu.evaluation.nearest_neighbour import neighbour_captions
from capgpu.evaluation.scores import Scores, score_captions
from capgpu.tokens import detokenize, interned

if TYPE_CHECKING:
    from capgpu.decode import WordModel
    from capgpu.model import CaptioningRNN

__all__ = ["BASELINE", "SplitEvaluation", "caption_share", "evaluate_split"]

#: Name of the baseline in tables and files.
BASELINE = "nearest training picture"
#: Its key in JSON; that of the model is ``model``.
_KEYS = {BASELINE: "nearest_neighbour"}


@dataclass(frozen=True)
class SplitEvaluation:
    """Captions and scores of a model and of the baseline on a split.

    Attributes
    ----------
    split : str
        The split.
    model_name : str
        Name of the model in tables and files.
    captions : dict of str to list of str
        The captions of all pictures, by the name of the model and of the baseline.
    truths : list of list of str
        The true captions of each picture; pictures without one are not scored.
    scores : dict of str to Scores
        Scores over the pictures with true captions, by name.
    n_scored : int
        Number of pictures with true captions.
    expressible : float
        Fraction of them with a true caption whose words are all in the model's vocabulary.
    """

    split: str
    model_name: str
    captions: dict[str, list[str]]
    truths: list[list[str]]
    scores: dict[str, Scores]
    n_scored: int
    expressible: float

    @property
    def model_captions(self) -> list[str]:
        """The model's captions of all pictures."""
        return self.captions[self.model_name]

    def as_json(self) -> dict[str, Any]:
        """Return scores, captions and true captions, as JSON has them, under ``model`` and ``nearest_neighbour``."""
        return {
            "split": self.split,
            "pictures": len(self.truths),
            "expressible": self.expressible,
            "model": self.model_name,
            "scores": {_KEYS.get(name, "model"): scores.as_json() for name, scores in self.scores.items()},
            "captions": [
                {
                    "picture": i,
                    "truth": truths,
                    **{_KEYS.get(name, "model"): captions[i] for name, captions in self.captions.items()},
                }
                for i, truths in enumerate(self.truths)
            ],
        }


def evaluate_split(
    model: CaptioningRNN | Ensemble,
    dataset: Dataset,
    split: str,
    config: GenerationConfig | None = None,
    *,
    java: Sequence[str] = (),
    progress: Callable[[int, int], None] = lambda done, total: None,
    communicator: Communicator = ALONE,
) -> SplitEvaluation:
    """Caption a split and score the captions beside those of the nearest-neighbour baseline.

    Parameters
    ----------
    model : WordModel
        The model, trained on the data set.
    dataset : Dataset
        The data set.
    split : str
        The split.
    config : GenerationConfig, optional
        Settings of the decoder; greedy by default.
    java : sequence of str
        Additional metrics of `capgpu.evaluation.scores.JAVA_METRICS`.
    progress : callable
        Called as ``progress(done, total)`` with the number of captioned pictures.
    communicator : Communicator
        Joins this process, of rank 0, with those that call `caption_share`. The result is that of one process.

    Returns
    -------
    SplitEvaluation
        Captions of all pictures, scores over those with true captions.

    Raises
    ------
    ValueError
        For a split that the data set does not have, or without true captions.
    MissingExtraError, OSError
        As for `capgpu.metrics.meteor_spice.meteor`.
    """
    config = GenerationConfig() if config is None else config
    references = dataset.true_words(split)
    truths = [[detokenize(words) for words in group] for group in references]
    scored = [i for i, group in enumerate(truths) if group]
    name = _model_name(model) + _decoder_suffix(config)
    texts, neighbours = caption_share(model, dataset, split, config, communicator, progress=progress)
    captions = {name: texts, BASELINE: neighbours}
    references = [references[i] for i in scored]
    scores = {}
    for who, texts in captions.items():
        candidates = [texts[i] for i in scored]
        right_base = None
        if dataset.base_name is not None:
            right_base = match_base_names(candidates, [truths[i] for i in scored], dataset.base_name)
        words = list(map(interned(dataset.tokenize), candidates))
        scores[who] = score_captions(words, references, java=java, right_base=right_base)
    expressible = _expressible(references, model.word_to_idx)
    return SplitEvaluation(split, name, captions, truths, scores, len(scored), expressible)


def caption_share(
    model: WordModel,
    dataset: Dataset,
    split: str,
    config: GenerationConfig,
    communicator: Communicator,
    *,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[list[str], list[str]]:
    """Caption a split together with other processes: those of rank above 0 call this, rank 0 `evaluate_split`.

    Parameters
    ----------
    model, dataset, split, config, progress
        As for `evaluate_split`.
    communicator : Communicator
        Joins the processes. Each reads its part of the features.

    Returns
    -------
    texts, neighbours : list of str
        The captions of all pictures by the model and by the baseline, as of one process.

    Raises
    ------
    ValueError
        For a split that the data set does not have.
    """
    captions = write_captions(model, dataset.features(split), config, progress=progress, communicator=communicator)
    return [caption.text for caption in captions], neighbour_captions(dataset, split, communicator)


def _model_name(model: CaptioningRNN | Ensemble) -> str:
    if isinstance(model, Ensemble):
        return f"ensemble of {len(model.models)}"
    layers = "" if model.n_layers == 1 else f"{model.n_layers} layers of "
    return f"{model.cell_type.upper()}, {layers}{model.config['hidden_dim']} units"


def _decoder_suffix(config: GenerationConfig) -> str:
    return f", beam of {config.beam}" if config.beam > 1 else ", sampled" if config.samples else ""


def _expressible(references: Sequence[Sequence[Sequence[str]]], word_to_idx: Mapping[str, int]) -> float:
    possible = [any(all(word in word_to_idx for word in truth) for truth in truths) for truths in references]
    return sum(possible) / len(possible)
