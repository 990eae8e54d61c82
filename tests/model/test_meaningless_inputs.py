"""What the model refuses instead of computing something meaningless from it."""

from __future__ import annotations

import re

import numpy as np
import pytest

import capgpu
from capgpu.model import CaptioningRNN

WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, "cat": 3, "dog": 4}
FEATURES = np.ones((2, 3), np.float32)
CAPTIONS = np.array([[1, 3, 2], [1, 4, 2]])


@pytest.fixture
def model() -> CaptioningRNN:
    capgpu.set_backend("numpy")
    return CaptioningRNN(WORDS, 3, 4, 5, "lstm", seed=0)


def test_captions_without_any_word_are_refused_in_training(model: CaptioningRNN) -> None:
    with pytest.raises(ValueError, match=r"captions: expected at least one word .* got padding"):
        model.loss(FEATURES, np.array([[1, 0, 0], [1, 0, 0]]))
    model.loss(FEATURES, np.array([[1, 0, 0], [1, 3, 2]]))  # one of them is no reason to stop
    assert model.nll(FEATURES, np.array([[1, 0, 0], [1, 0, 0]]))[1] == 0  # which is returned


def test_an_unknown_entry_is_refused_with_a_suggestion(model: CaptioningRNN) -> None:
    model.params["W_embeded"] = model.params["W_embed"]
    message = "params['W_embeded']: expected the entries W_embed, W_proj"
    for use in (lambda: model.loss(FEATURES, CAPTIONS), lambda: model.sample(FEATURES)):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}.* Did you mean 'W_embed'"):
            use()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ({0: "<NULL>", 1: "<START>"}, "got the entry 0: '<NULL>'. This is idx_to_word: pass word_to_idx."),
        (["<NULL>", "<START>"], "expected a mapping of words to ids, got a list."),
        ({"<NULL>": 0, "<START>": 1.0}, "got the entry '<START>': 1.0."),
    ],
)
def test_a_vocabulary_of_another_form_is_refused(words: object, says: str) -> None:
    with pytest.raises(TypeError, match=re.escape(says)):
        CaptioningRNN(words)  # type: ignore[arg-type] # as a mistaken user passes it


def test_tensors_of_torch_are_refused_with_the_conversion(model: CaptioningRNN) -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"features: expected a NumPy array, got a torch.Tensor. Pass features.detach"):
        model.loss(torch.ones(2, 3), CAPTIONS)
    with pytest.raises(TypeError, match=r"captions: expected a NumPy array, got a torch.Tensor. Pass captions.detach"):
        model.loss(FEATURES, torch.from_numpy(CAPTIONS))
