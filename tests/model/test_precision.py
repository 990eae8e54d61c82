"""Captioners whose products read factors rounded to bfloat16: loss, gradients, decoding, files."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.checkpoint import load_model, save_model
from capgpu.decode import beam_search
from oracles import captioner
from oracles.numbers import distance
from oracles.scenes import CAPTIONS, CELLS, SIZES, WORDS, features_for, parameters


@pytest.mark.parametrize("cell", CELLS)
def test_loss_and_gradients_are_close_to_those_of_float64(backend, cell):
    captions = CAPTIONS["padded"]
    params, features = parameters(cell, dtype="float32"), features_for(captions, "float32")
    model = backend.model(WORDS, **SIZES, cell_type=cell, params=params, precision="bf16")
    loss, grads = model.loss(backend.asarray(features), captions)
    exact = {name: value.astype(np.float64) for name, value in params.items()}
    expected_array, expected = captioner.loss(exact, features.astype(np.float64), captions)
    assert 1e-6 < distance(backend.to_numpy(loss), expected_array) < 1e-2  # and rounded they are
    for name, gradient in grads.items():
        assert backend.to_numpy(gradient).dtype == np.float32, name
        assert distance(backend.to_numpy(gradient), expected[name]) < 3e-2, name


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("cell", CELLS)
def test_every_decoder_uses_the_models_precision(backend, cell):
    features = backend.asarray(features_for(CAPTIONS["padded"], "float32"))
    scores = {}
    for precision in ("float32", "bf16"):
        params = parameters(cell, dtype="float32")
        model = backend.model(WORDS, **SIZES, cell_type=cell, params=params, precision=precision)
        state, words, written = model.begin(features), backend.asarray(np.ones(features.shape[0], np.int32)), []
        for _ in range(3):
            logits, state = model.step(state, words)
            words = backend.asarray(backend.to_numpy(logits).argmax(axis=1).astype(np.int32))
            written.append(backend.to_numpy(words))
        assert (backend.to_numpy(model.sample(features, 3)) == np.stack(written, axis=1)).all()
        scores[precision] = backend.to_numpy(beam_search(model, features, 2, max_length=3).scores)
    assert 1e-6 < distance(scores["bf16"], scores["float32"]) < 1e-2


def test_the_precision_is_saved_with_the_model(tmp_path):
    model = capgpu.CaptioningRNN(WORDS, **SIZES, seed=0, precision="bf16")
    assert model.config["precision"] == "bf16"
    assert load_model(save_model(tmp_path, model)).precision == "bf16"
    assert capgpu.CaptioningRNN(WORDS, **SIZES, seed=0).precision == "float32"


def test_other_precisions_and_dtypes_are_refused():
    with pytest.raises(ValueError, match=r"precision: expected one of 'float32', 'bf16', got 'bfloat16'"):
        capgpu.CaptioningRNN(WORDS, **SIZES, precision="bfloat16")
    with pytest.raises(TypeError, match=r"expected dtype float32, got float64\. Make the model"):
        capgpu.CaptioningRNN(WORDS, **SIZES, dtype="float64", precision="bf16")
