"""A weight for each caption, in the training loss and its gradients."""

from __future__ import annotations

import numpy as np
import pytest

from oracles.numbers import distance, numeric_gradient
from oracles.scenes import CAPTIONS, SIZES, WORDS, features_for, parameters

BAD_WEIGHTS = {
    "list": ([1.0, 2.0], TypeError, "array of numbers"),
    "shape": (np.ones(2), ValueError, r"expected shape \(3,\)"),
    "nan": (np.array([1.0, np.nan, 1.0]), ValueError, "finite"),
    "huge": (np.array([1.0, -1e31, 1.0]), ValueError, "at most 1e.30 in absolute value, got 1e.31"),
    "text": (np.array(["1", "2", "3"]), TypeError, "real numbers"),
}


def model_of(backend, cell, **settings):
    return backend.model(WORDS, **SIZES, cell_type=cell, dtype="float64", params=parameters(cell), **settings)


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_the_weighted_loss_is_the_weighted_sum_of_the_losses_of_the_captions(backend, cell):
    captions = CAPTIONS["NULL inside"]
    features = features_for(captions)
    model = model_of(backend, cell, label_smoothing=0.2)
    weights = np.array([-1.5, 0.0, 0.25, 2.0])[: len(captions)]
    loss, grads = model.loss(backend.asarray(features), captions, weights=weights)
    wanted, wanted_grads = 0.0, {}
    for n, weight in enumerate(weights):
        if (captions[n, 1:] != 0).any():
            alone, alone_grads = model.loss(backend.asarray(features[n : n + 1]), captions[n : n + 1])
            wanted += weight / len(captions) * float(alone)
            for name, gradient in alone_grads.items():
                part = weight / len(captions) * backend.to_numpy(gradient)
                wanted_grads[name] = wanted_grads.get(name, 0.0) + part
    assert distance(float(loss), wanted) < 1e-12
    for name, gradient in grads.items():
        assert distance(backend.to_numpy(gradient), wanted_grads[name]) < 1e-10, name


@pytest.mark.nightly(unless=lambda p: p.backend == "cpu")
def test_weighted_gradients_agree_with_differences_of_the_loss(backend):
    captions = CAPTIONS["padded"]
    features = backend.asarray(features_for(captions))
    weights = np.linspace(-2.0, 1.0, len(captions))
    model = model_of(backend, "lstm", label_smoothing=0.1, output_dropout=0.4)
    _, grads = model.loss(features, captions, dropout_key=5, weights=weights)
    for name in ("W_embed", "W_vocab", "b_vocab", "b"):
        parameter = model.params[name]

        def loss(moved, name=name):
            model.params[name] = backend.asarray(moved)
            return float(model.loss(features, captions, dropout_key=5, weights=weights)[0])

        expected = numeric_gradient(loss, backend.to_numpy(parameter))
        model.params[name] = parameter
        assert distance(backend.to_numpy(grads[name]), expected) < 1e-6, name


@pytest.mark.parametrize("case", BAD_WEIGHTS)
def test_bad_weights_are_refused(case):
    from capgpu import CaptioningRNN

    weights, error, message = BAD_WEIGHTS[case]
    model = CaptioningRNN(WORDS, **SIZES, seed=0)
    captions = np.array([[1, 3, 2]] * 3)
    with pytest.raises(error, match=message):
        model.loss(np.ones((3, SIZES["input_dim"]), np.float32), captions, weights=weights)
