"""The metric of a solver: scores of the captions that a model writes for pictures spaced evenly in a split."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.captions import Caption
from capgpu.data import emoji
from capgpu.evaluation import caption_metric
from capgpu.evaluation.caption_metric import CaptionMetric
from capgpu.evaluation.selection import linspace_indices
from capgpu.metrics import coco_scores
from capgpu.model import CaptioningRNN
from capgpu.tokens import tokenize


def test_scores_compare_the_captions_of_evenly_spaced_pictures_with_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    data = emoji.load()
    rows = linspace_indices(len(data["val_features"]), 5)
    texts = [data["val_names"][i] for i in rows[:4]] + ["something else"]

    def written(model: object, features: np.ndarray, config: object) -> list[Caption]:
        assert np.array_equal(features, data["val_features"][rows])
        return [Caption(text) for text in texts]

    with monkeypatch.context() as patch:
        patch.setattr(caption_metric, "write_captions", written)
        scores = CaptionMetric(["BLEU-1", "CIDEr"], count=5)(None, data)
    expected = coco_scores(list(map(tokenize, texts)), [[tokenize(data["val_names"][i])] for i in rows])
    assert scores == {name: expected[name].corpus for name in ("BLEU-1", "CIDEr")}
    assert 0.5 < scores["BLEU-1"] < 1
    with capgpu.use_backend("numpy"):
        model = CaptioningRNN(data["word_to_idx"], 256, 8, 8, "lstm", seed=0)
        with pytest.raises(ValueError, match=r"names: expected some of BLEU-1, .* got 'CIDER'"):
            CaptionMetric("CIDER", count=2, max_length=4)(model, data)
