"""Parameters that are not finite: every backend gives the same loss, gradients of the same kind, and the same words."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.backend import is_device_array
from capgpu.captioner_steps import greedy_captions
from capgpu.kernels.cells import CELLS
from capgpu.model import CaptioningRNN

WORDS = {word: index for index, word in enumerate(["<NULL>", "<START>", "<END>", *"abcdefg"])}
CAPTIONS = np.array([[1, 3, 4, 5, 2, 0], [1, 6, 7, 2, 0, 0], [1, 8, 9, 3, 4, 2]])
PARAMETERS = ("W_embed", "W_proj", "b_proj", "Wx", "Wh", "b", "W_vocab", "b_vocab")


def outcome(cell, name, value, features):
    model = CaptioningRNN(WORDS, 6, 5, 8, cell, np.float32, seed=1)
    spoilt = capgpu.to_numpy(model.params[name]).copy()
    spoilt[(3,) * spoilt.ndim] = value
    model.params[name] = capgpu.asarray(spoilt)
    features = capgpu.asarray(features)
    with np.errstate(all="ignore"):
        loss, grads = model.loss(features, CAPTIONS)
        if not is_device_array(features):
            with pytest.raises(ValueError, match=rf"params\['{name}'\]: expected finite values"):
                model.sample(features, 5)
        words = np.zeros(0)
        if not name.endswith("_proj"):  # states that are not finite are refused on the host
            words = greedy_captions(model.cell, model.params, features, 5, 1, -1, 0)
    finite = {key: bool(np.isfinite(capgpu.to_numpy(grad)).all()) for key, grad in grads.items()}
    return float(loss), finite, capgpu.to_numpy(words).tolist()


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("cell", CELLS)
def test_backends_agree_on_parameters_that_are_not_finite(backend, monkeypatch, random, cell, value):
    features = random.standard_normal((3, 6)).astype(np.float32)
    if backend.name == "cpu":
        from capgpu.kernels.cpu import greedy

        # the words of the vocabulary are shared among threads, as in a large model
        monkeypatch.setattr(greedy, "FEW_BYTES", 0)
        monkeypatch.setattr(greedy, "WORTH_BARRIERS", 0)
    for name in PARAMETERS:
        if backend.name == "cuda" and name == "Wh" and np.isinf(value):
            continue  # tensor cores multiply float32 in parts: an infinite weight is the largest finite number there
        loss, finite, words = outcome(cell, name, value, features)
        with capgpu.use_backend("numpy"):
            expected, wanted_finite, wanted_words = outcome(cell, name, value, features)
        assert loss == pytest.approx(expected, rel=1e-5, nan_ok=True), name
        assert finite == wanted_finite, name
        assert words == wanted_words, name


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("n_layers", [1, 2])
def test_features_whose_states_overflow_are_refused(cell, n_layers):
    with capgpu.use_backend("numpy"):
        model = CaptioningRNN(WORDS, 6, 5, 8, cell, np.float32, seed=1, n_layers=n_layers)
        with pytest.raises(FloatingPointError, match="features: expected finite hidden states, got NaN or infinity"):
            model.sample(np.full((3, 6), 3e38, np.float32), 5)


def test_parameters_are_read_again_once_training_may_have_changed_them(random):
    with capgpu.use_backend("numpy"):
        model = CaptioningRNN(WORDS, 6, 5, 8, "lstm", np.float32, seed=1)
        features = random.standard_normal((3, 6)).astype(np.float32)
        model.sample(features, 5)
        model.loss(features, CAPTIONS)
        model.params["W_vocab"][0, 0] = np.nan  # in place, as an update
        with pytest.raises(ValueError, match=r"params\['W_vocab'\]: expected finite values"):
            model.sample(features, 5)
        model.params["W_vocab"] = np.zeros_like(model.params["W_vocab"])
        model.sample(features, 5)
        model.params["b"] = np.full_like(model.params["b"], np.inf)
        with pytest.raises(ValueError, match=r"params\['b'\]: expected finite values"):
            model.sample(features, 5)
