"""The gradient with respect to the features: numeric differences, dropout included, and what it leaves alone."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.gradcheck import eval_numerical_gradient, rel_error
from capgpu.model import CaptioningRNN
from oracles.snapshots import frozen

WORDS = {word: index for index, word in enumerate(["<NULL>", "<START>", "<END>", *"abc"])}
CAPTIONS = np.array([[1, 3, 4, 2], [1, 5, 2, 0]])


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize("key", [None, 3])
def test_the_features_gradient_agrees_with_differences_also_with_dropout(backend, random, cell, key):
    model = CaptioningRNN(WORDS, 4, 5, 6, cell, np.float64, seed=1, feature_dropout=0.4, output_dropout=0.3)
    model.params.update({name: backend.asarray(capgpu.to_numpy(array)) for name, array in model.params.items()})
    features = random.standard_normal((2, 4))

    def loss(values):
        return float(model.loss(backend.asarray(values), CAPTIONS, dropout_key=key)[0])

    _, grads = model.loss(backend.asarray(features), CAPTIONS, dropout_key=key, features_gradient=True)
    features_grad = backend.to_numpy(grads["features"])
    assert features_grad.shape == features.shape
    assert rel_error(features_grad, eval_numerical_gradient(loss, features.copy())) < 1e-6
    plain = model.loss(backend.asarray(features), CAPTIONS, dropout_key=key)[1]
    assert frozen({name: grads[name] for name in plain}) == frozen(plain)
    assert "features" not in plain
