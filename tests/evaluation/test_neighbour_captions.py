"""The nearest training picture's caption: the right one, and no others tokenized."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from capgpu.data.datasets import Dataset
from capgpu.evaluation.nearest_neighbour import neighbour_captions
from capgpu.tokens import tokenize

FEATURES = np.eye(4, 3, dtype=np.float32)  # the last is zero: no picture's neighbour


def dataset(**texts: list[str]) -> Dataset:
    data: dict[str, Any] = {
        "idx_to_word": ["<NULL>", "<START>", "<END>", "<UNK>", "a", "b"],
        "train_captions": np.array([[1, 5, 2], [1, 4, 2], [1, 3, 2], [1, 4, 2]], np.int32),
        "train_image_idxs": np.array([2, 0, 0, 2]),  # picture 1 has no caption
        "train_features": FEATURES,
        "val_captions": np.array([[1, 4, 2]], np.int32),
        "val_image_idxs": np.array([0]),
        "val_features": np.array([[0, 1, 0.5], [1, 0, 0], [0, 0, 2]], np.float32),
    }
    return Dataset("d", data | texts)


@pytest.mark.parametrize("texts", [True, False])
def test_the_caption_is_the_first_of_the_nearest_picture_with_captions(texts: bool) -> None:
    given = {"train_texts": ["B here", "An A", "other", "more"]} if texts else {}
    first = "b here" if texts else "b", "an a" if texts else "a"
    assert neighbour_captions(dataset(**given), "val") == [first[0], first[1], first[0]]


def test_captions_that_are_not_needed_are_not_tokenized() -> None:
    tokenized: list[str] = []

    def counting(text: str) -> list[str]:
        tokenized.append(text)
        return tokenize(text)

    data = dataset(train_texts=["B here", "An A", "other", "more"]).data
    neighbour_captions(Dataset("d", data, tokenize=counting), "val")
    assert sorted(tokenized) == ["An A", "B here"]
