"""Scores of generated captions while a model is trained: the `metric` of a solver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Unpack

from capgpu.data.datasets import Dataset
from capgpu.decode import GenerationConfig
from capgpu.decode.generation_config import GenerationSettings
from capgpu.errors import InvalidValueError
from capgpu.evaluation.captioning import write_captions
from capgpu.evaluation.selection import linspace_indices
from capgpu.metrics import coco_scores
from capgpu.tokens import tokenize
from capgpu.validation import check_count

__all__ = ["CaptionMetric"]


class CaptionMetric:
    """Metric of a solver: scores of the captions that the model writes for some pictures of a split.

    Parameters
    ----------
    names : sequence of str
        Of ``"BLEU-1"`` to ``"BLEU-4"``, ``"ROUGE-L"`` and ``"CIDEr"``.
    split : str
        The split.
    count : int
        Pictures that are captioned, evenly spaced in the split.
    tokenize : callable
        Splits captions into words.
    **settings
        Settings of the decoder, as for `capgpu.decode.GenerationConfig`; greedy by default.

    Raises
    ------
    TypeError, ValueError
        For a count below 1 or settings out of range; when called, for an unknown name or a split without captions.

    Examples
    --------
    >>> from capgpu.evaluation.caption_metric import CaptionMetric
    >>> metric = CaptionMetric(["CIDEr", "BLEU-4"], count=100)  # CaptioningSolver(..., metric=metric)
    """

    def __init__(
        self,
        names: Sequence[str] = ("CIDEr",),
        split: str = "val",
        count: int = 200,
        tokenize: Callable[[str], list[str]] = tokenize,
        **settings: Unpack[GenerationSettings],
    ) -> None:
        check_count("count", count, 1)
        self.names = (names,) if isinstance(names, str) else tuple(names)
        self.split, self.count, self.tokenize = split, count, tokenize
        self.config = GenerationConfig.of(**settings)

    def __call__(self, model: Any, data: Mapping[str, Any]) -> dict[str, float]:
        """Caption the pictures and score the captions.

        Parameters
        ----------
        model : CaptioningRNN
            The model.
        data : dict
            The course's data dictionary.

        Returns
        -------
        dict of str to float
            The score of each name.
        """
        dataset = Dataset("data", dict(data), tokenize=self.tokenize)
        references = dataset.true_words(self.split)
        with_captions = [i for i, captions in enumerate(references) if captions]
        chosen = [with_captions[i] for i in linspace_indices(len(with_captions), self.count)]
        captions = write_captions(model, dataset.features(self.split)[chosen], self.config)
        scores = coco_scores([self.tokenize(caption.text) for caption in captions], [references[i] for i in chosen])
        unknown = [name for name in self.names if name not in scores]
        if unknown:
            raise InvalidValueError(f"names: expected some of {', '.join(scores)}, got {unknown[0]!r}.")
        return {name: float(scores[name].corpus) for name in self.names}
