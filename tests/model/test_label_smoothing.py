"""Smoothed labels: in the training loss and its gradients, and nowhere else."""

from __future__ import annotations

import json

import numpy as np
import pytest

import capgpu
from capgpu import CaptioningRNN
from oracles.numbers import distance, numeric_gradient
from oracles.scenes import CAPTIONS, SIZES, WORDS, features_for, parameters

CELLS = ["rnn", "lstm"]


def model_of(backend, cell, smoothing, dtype="float64", **settings):
    params = parameters(cell, dtype=dtype)
    return backend.model(
        WORDS, **SIZES, cell_type=cell, dtype=dtype, params=params, label_smoothing=smoothing, **settings
    )


@pytest.mark.nightly(unless=lambda p: p.backend != "cuda" or (p.cell, p.key) == ("rnn", 5))
@pytest.mark.parametrize("key", [None, 5], ids=["plain", "dropout"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_agree_with_differences_of_the_loss(backend, cell, key):
    captions = CAPTIONS["NULL inside"]
    features = backend.asarray(features_for(captions))
    model = model_of(backend, cell, 0.2, output_dropout=0.4)
    _, grads = model.loss(features, captions, dropout_key=key)
    for name in ("W_embed", "W_vocab", "b_vocab", "b"):
        parameter = model.params[name]

        def loss(moved, name=name):
            model.params[name] = backend.asarray(moved)
            return float(model.loss(features, captions, dropout_key=key)[0])

        expected = numeric_gradient(loss, backend.to_numpy(parameter))
        model.params[name] = parameter
        assert distance(backend.to_numpy(grads[name]), expected) < 1e-6, name


@pytest.mark.parametrize("cell", CELLS)
def test_the_loss_lies_between_those_of_the_true_word_and_of_the_uniform_distribution(backend, cell):
    captions = CAPTIONS["padded"]
    features = backend.asarray(features_for(captions))
    losses = [float(model_of(backend, cell, s).loss(features, captions)[0]) for s in (0.0, 0.1, 0.2, 0.4)]
    steps = np.diff(losses)
    assert steps[1] == pytest.approx(steps[0], rel=1e-9)  # it is linear in the smoothing
    assert steps[2] == pytest.approx(2 * steps[0], rel=1e-9)
    assert abs(steps[0]) > 1e-6


@pytest.mark.parametrize("cell", CELLS)
def test_validation_is_not_smoothed(backend, cell):
    captions = CAPTIONS["padded"]
    features = backend.asarray(features_for(captions))
    smoothed, plain = (model_of(backend, cell, s).nll(features, captions) for s in (0.3, 0.0))
    assert float(smoothed[0]) == float(plain[0])


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
def test_label_smoothing_agrees_with_pytorch(smoothing):
    torch = pytest.importorskip("torch")
    from capgpu.kernels.reference import KERNELS

    random = np.random.default_rng(0)
    hidden, W, b = (random.standard_normal(shape) for shape in ((9, 5), (5, 7), (7,)))
    targets = np.array([0, 3, -1, 6, 6, 2, -1, 1, 4])
    actual = KERNELS.linear_cross_entropy(hidden, W, b, targets, 0.25, smoothing=smoothing)
    leaves = [torch.tensor(array, requires_grad=True) for array in (hidden, W, b)]
    loss = 0.25 * torch.nn.functional.cross_entropy(
        leaves[0] @ leaves[1] + leaves[2],
        torch.tensor(targets),
        label_smoothing=smoothing,
        ignore_index=-1,
        reduction="sum",
    )
    loss.backward()
    for result, torch_result in zip(actual, [loss.detach(), *(leaf.grad for leaf in leaves)], strict=True):
        assert distance(result, torch_result.numpy()) < 1e-10


def test_half_precision_does_not_underflow_with_a_large_vocabulary():
    words = {**WORDS, **{f"w{i}": i for i in range(len(WORDS), 3000)}}
    capgpu.set_backend("numpy")
    losses = {}
    for dtype in ("float16", "float64"):
        model = CaptioningRNN(words, **SIZES, dtype=dtype, seed=0, label_smoothing=0.1)
        captions = np.arange(4, 40).reshape(4, 9)
        losses[dtype] = float(model.loss(features_for(captions), captions)[0])
    assert losses["float16"] == pytest.approx(losses["float64"], rel=2e-3)


def test_the_smoothing_rate_is_saved_with_the_model():
    capgpu.set_backend("numpy")
    model = CaptioningRNN(WORDS, **SIZES, label_smoothing=0.1)
    assert CaptioningRNN(WORDS, **json.loads(json.dumps(model.config))).label_smoothing == 0.1


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, float("nan")])
def test_rates_out_of_range_are_refused(smoothing):
    with pytest.raises(ValueError, match="label_smoothing"):
        CaptioningRNN(WORDS, **SIZES, label_smoothing=smoothing)
