"""The loss and all eight gradients: against plain loops, and against differences of the loss itself."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from oracles import captioner
from oracles.numbers import TOLERANCE, distance, numeric_gradient
from oracles.scenes import CAPTIONS, CELLS, SIZES, WORDS, features_for, parameters


@pytest.mark.parametrize("captions", CAPTIONS.values(), ids=CAPTIONS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_loss_and_gradients_agree_with_the_padded_computation(backend, cell, dtype, captions):
    params, features = parameters(cell, dtype=dtype), features_for(captions, dtype)
    model = backend.model(WORDS, **SIZES, cell_type=cell, dtype=dtype, params=params)
    loss, grads = model.loss(backend.asarray(features), captions)
    exact = {name: value.astype(np.float64) for name, value in params.items()}
    want_loss, expected = captioner.loss(exact, features.astype(np.float64), captions)
    assert distance(backend.to_numpy(loss), want_loss) < TOLERANCE[dtype]["forward"]
    assert list(grads) == list(model.params)
    for name, gradient in grads.items():
        assert gradient.dtype == model.params[name].dtype, name
        assert distance(backend.to_numpy(gradient), expected[name]) < TOLERANCE[dtype]["gradient"], name


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("cell", CELLS)
def test_half_precision_agrees_with_the_padded_computation(backend, cell):
    captions = CAPTIONS["padded"]
    params, features = parameters(cell, dtype="float16"), features_for(captions, "float16")
    model = backend.model(WORDS, **SIZES, cell_type=cell, dtype="float16", params=params)
    loss, grads = model.loss(backend.asarray(features), captions)
    exact = {name: value.astype(np.float64) for name, value in params.items()}
    want_loss, expected = captioner.loss(exact, features.astype(np.float64), captions)
    assert distance(backend.to_numpy(loss), want_loss) < TOLERANCE["float16"]["forward"]
    for name, gradient in grads.items():
        assert backend.to_numpy(gradient).dtype == np.float16
        assert distance(backend.to_numpy(gradient), expected[name]) < TOLERANCE["float16"]["gradient"], name


@pytest.mark.nightly(unless=lambda p: p.backend != "cuda" or (p.cell, p.key) == ("rnn", 5))
@pytest.mark.parametrize("key", [None, 5], ids=["plain", "dropout"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_agree_with_differences_of_the_loss(backend, cell, key):
    captions = np.array([[1, 0, 5, 0, 2, 0], [0, 4, 0, 5, 2, 1], [1, 4, 2, 0, 0, 0], [0, 0, 0, 0, 0, 0]])
    sizes = {"input_dim": 3, "wordvec_dim": 2, "hidden_dim": 3}
    params, features = parameters(cell, words=6, **sizes), backend.asarray(features_for(captions))
    words = {word: index for word, index in WORDS.items() if index < 6}
    rates = {"feature_dropout": 0.4, "output_dropout": 0.4}
    model = backend.model(words, **sizes, cell_type=cell, dtype=np.float64, params=params, **rates)
    _, grads = model.loss(features, captions, dropout_key=key)
    for name, value in params.items():

        def loss(moved, name=name):
            model.params[name] = backend.asarray(moved)
            return float(model.loss(features, captions, dropout_key=key)[0])

        expected = numeric_gradient(loss, value)
        model.params[name] = backend.asarray(value)
        assert distance(backend.to_numpy(grads[name]), expected) < 1e-6, name


@pytest.mark.parametrize("cell", CELLS)
@hypothesis.given(
    count=strategies.integers(1, 5),
    steps=strategies.integers(1, 6),
    sizes=strategies.tuples(*[strategies.integers(1, 5)] * 3, strategies.integers(2, 5)),
    seed=strategies.integers(0),
)
def test_random_minibatches_agree_with_the_padded_computation(backend, cell, count, steps, sizes, seed):
    random = np.random.default_rng(seed)
    D, W, H, V = sizes
    words = {"<NULL>": 0, **{f"word {k}": k for k in range(1, V)}}
    shape = {"input_dim": D, "wordvec_dim": W, "hidden_dim": H}
    captions = random.integers(0, V, (count, steps + 1)) * (random.uniform(size=(count, steps + 1)) < 0.6)
    captions[0, 1] = V - 1  # a minibatch without words is refused
    params, features = parameters(cell, words=V, **shape), features_for(captions, width=D)
    model = backend.model(words, **shape, cell_type=cell, dtype=np.float64, params=params)
    loss, grads = model.loss(backend.asarray(features), captions)
    want_loss, expected = captioner.loss(params, features, captions)
    assert distance(backend.to_numpy(loss), want_loss) < 1e-10
    for name, gradient in grads.items():
        assert distance(backend.to_numpy(gradient), expected[name]) < 1e-10, name


@pytest.mark.parametrize("cell", CELLS)
def test_a_vocabulary_without_start_and_end_and_with_an_id_beyond_its_length(backend, cell, random):
    captions = random.integers(0, 3, (2, 4))
    params = parameters(cell, words=3)
    model = backend.model({"<NULL>": 0, "cat": 2, "dog": 3}, **SIZES, cell_type=cell, dtype=np.float64, params=params)
    loss, grads = model.loss(backend.asarray(features_for(captions)), captions)
    want_loss, expected = captioner.loss(params, features_for(captions), captions)
    assert distance(backend.to_numpy(loss), want_loss) < 1e-10
    assert grads["W_embed"].shape == (3, 4)
    assert distance(backend.to_numpy(grads["W_embed"]), expected["W_embed"]) < 1e-10


def test_the_vocabulary_decides_the_id_of_null(backend):
    words = {"cat": 0, "<NULL>": 1, "dog": 2}
    captions = np.array([[0, 2, 1, 1], [2, 0, 1, 0]])
    params = parameters("lstm", words=3)
    model = backend.model(words, **SIZES, cell_type="lstm", dtype=np.float64, params=params)
    loss, _ = model.loss(backend.asarray(features_for(captions)), captions)
    expected, _ = captioner.loss(params, features_for(captions), captions, null=1)
    assert distance(backend.to_numpy(loss), expected) < 1e-10
