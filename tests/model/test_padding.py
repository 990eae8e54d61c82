"""Padding is work not done: what stands beside a caption changes nothing."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu.captioner
from capgpu.captioner import captioner_gradients
from capgpu.kernels.reference import KERNELS
from oracles.numbers import TOLERANCE, distance
from oracles.scenes import CAPTIONS, CELLS, SIZES, WORDS, features_for, parameters
from oracles.snapshots import frozen

MIXED = np.array([[1, 4, 2, 0, 0, 0], [1, 6, 0, 6, 5, 2], [0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0], [1, 5, 4, 2, 0, 0]])


def model_of(backend, cell, dtype="float64", **rates):
    params = parameters(cell, dtype=dtype)
    return backend.model(WORDS, **SIZES, cell_type=cell, dtype=dtype, params=params, **rates)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_columns_of_padding_change_no_bit(backend, cell, dtype):
    model = model_of(backend, cell, dtype, feature_dropout=0.3, output_dropout=0.3)
    features = backend.asarray(features_for(MIXED, dtype))
    wide = np.pad(MIXED, ((0, 0), (0, 7)))
    for key in (None, 3):
        expected = frozen(model.loss(features, MIXED, dropout_key=key))
        assert frozen(model.loss(features, wide, dropout_key=key)) == expected
    assert frozen(model.nll(features, wide)) == frozen(model.nll(features, MIXED))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_batch_is_the_mean_of_its_captions(backend, cell, dtype):
    model, host = model_of(backend, cell, dtype), features_for(MIXED, dtype)
    loss, grads = model.loss(backend.asarray(host), MIXED)
    alone = [
        model.loss(backend.asarray(host[n : n + 1]), MIXED[n : n + 1, : 1 + np.flatnonzero(MIXED[n]).max(initial=1)])
        for n in range(len(MIXED))
        if MIXED[n, 1:].any()  # one without words has no loss, and is refused alone
    ]
    assert distance(float(loss), sum(float(one) for one, _ in alone) / len(MIXED)) < TOLERANCE[dtype]["forward"]
    for name, gradient in grads.items():
        mean = np.sum([backend.to_numpy(each[name]).astype(np.float64) for _, each in alone], axis=0) / len(MIXED)
        assert distance(backend.to_numpy(gradient), mean) < TOLERANCE[dtype]["gradient"], name


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_order_of_a_batch_does_not_matter(backend, cell, dtype, random):
    model, host = model_of(backend, cell, dtype), features_for(MIXED, dtype)
    loss, grads = model.loss(backend.asarray(host), MIXED)
    order = random.permutation(len(MIXED))
    other_loss, other = model.loss(backend.asarray(host[order]), MIXED[order])
    assert distance(float(other_loss), float(loss)) < TOLERANCE[dtype]["forward"]
    for name, gradient in grads.items():
        assert distance(backend.to_numpy(other[name]), backend.to_numpy(gradient)) < TOLERANCE[dtype]["gradient"]


@pytest.mark.parametrize("cell", CELLS)
def test_the_features_of_an_empty_caption_do_not_matter(backend, cell):
    model, host = model_of(backend, cell), features_for(MIXED)
    expected = frozen(model.loss(backend.asarray(host), MIXED))
    host[2] = 1e6
    assert frozen(model.loss(backend.asarray(host), MIXED)) == expected


def test_captions_of_null_have_zero_nll_and_are_refused_in_training(backend):
    captions = np.zeros((3, 4), dtype=np.int64)
    for cell in CELLS:
        model = model_of(backend, cell)
        features = backend.asarray(features_for(captions))
        total, count = model.nll(features, captions)
        assert (float(total), count) == (0, 0)
        # the model refuses to be trained on them; the mathematics serve them
        with pytest.raises(ValueError, match="expected at least one word"):
            model.loss(features, captions)
        batch = model._batch(captions)
        loss, grads = captioner_gradients(model.cell, model.params, features, batch, model._options(None))
        assert float(loss) == 0
        for name, gradient in grads.items():
            assert gradient.shape == model.params[name].shape
            assert not backend.to_numpy(gradient).any()


@pytest.mark.parametrize("cell", CELLS)
def test_the_recurrence_runs_over_words_that_count_and_what_leads_to_them(monkeypatch, cell):
    rows = {}

    def counting(name):
        def run(projected, row_of_word, *rest, **options):
            rows[name] = len(row_of_word)
            rows["distinct words"] = len(projected)
            return getattr(KERNELS, name)(projected, row_of_word, *rest, **options)

        return run

    counted = {name: staticmethod(counting(name)) for name in (f"{each}_forward" for each in CELLS)}
    kernels = type("Counting", (type(KERNELS),), counted)()
    monkeypatch.setattr(capgpu.captioner, "kernels_for", lambda array, precision="float32": kernels)
    capgpu.set_backend("numpy")
    model = capgpu.CaptioningRNN(WORDS, **SIZES, cell_type=cell, seed=0)
    model.loss(features_for(MIXED, "float32"), np.pad(MIXED, ((0, 0), (0, 30))))
    # 2 + 5 + 0 + 1 + 3 steps, over the words START, cat, red, NULL, dog
    assert rows == {f"{cell}_forward": 11, "distinct words": 5}


@pytest.mark.parametrize("captions", CAPTIONS.values(), ids=CAPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_nll_returns_the_sum_over_words_and_their_number(backend, cell, captions):
    model = model_of(backend, cell, feature_dropout=0.5, output_dropout=0.5)
    features = backend.asarray(features_for(captions))
    total, tokens = model.nll(features, captions)
    loss, _ = model.loss(features, captions)
    assert distance(float(total), float(loss) * len(captions)) < 1e-12
    assert tokens == np.count_nonzero(captions[:, 1:])
