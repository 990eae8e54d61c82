"""Dropout: on only with a key, the same masks for the same key, and nothing but masks."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

import capgpu
from oracles import captioner
from oracles.numbers import distance
from oracles.scenes import CAPTIONS, SIZES, WORDS, features_for, parameters
from oracles.snapshots import frozen

CELLS = ["rnn", "lstm"]
BOTH = {"feature_dropout": 0.4, "output_dropout": 0.4}


def model_of(backend, cell, **rates):
    return backend.model(WORDS, **SIZES, cell_type=cell, dtype=np.float64, params=parameters(cell), **rates)


@pytest.mark.parametrize("cell", CELLS)
def test_without_a_key_there_is_no_dropout(backend, cell):
    captions = CAPTIONS["padded"]
    features = backend.asarray(features_for(captions))
    expected = frozen(model_of(backend, cell).loss(features, captions))
    assert frozen(model_of(backend, cell, **BOTH).loss(features, captions)) == expected
    assert frozen(model_of(backend, cell).loss(features, captions, dropout_key=1)) == expected


@pytest.mark.parametrize("cell", CELLS)
def test_equal_keys_give_equal_masks_and_others_different_ones(backend, cell):
    captions = CAPTIONS["padded"]
    model, features = model_of(backend, cell, **BOTH), backend.asarray(features_for(captions))
    losses = [frozen(model.loss(features, captions, dropout_key=key)) for key in (0, 1, -1, 2**63, 0, np.int64(1))]
    assert losses[0] == losses[4]
    assert losses[1] == losses[5]
    assert len({str(each) for each in losses}) == 4


def test_a_key_that_is_not_an_integer_is_refused(backend):
    model = model_of(backend, "rnn", **BOTH)
    with pytest.raises(TypeError, match="integer"):
        model.loss(backend.asarray(features_for(CAPTIONS["padded"])), CAPTIONS["padded"], dropout_key=0.5)


@pytest.mark.parametrize("cell", CELLS)
def test_feature_dropout_multiplies_the_features_by_a_mask(backend, cell):
    captions, rate = np.array([[1, 4, 2, 0]]), 0.4
    features = features_for(captions)
    masks = [np.array(bits) / (1 - rate) for bits in itertools.product([0, 1], repeat=3)]
    expected = [captioner.loss(parameters(cell), features * mask, captions)[0] for mask in masks]
    model = model_of(backend, cell, feature_dropout=rate)
    matching_masks = set()
    for key in range(40):
        loss = float(model.loss(backend.asarray(features), captions, dropout_key=key)[0])
        (match,) = np.flatnonzero(np.abs(np.array(expected) - loss) < 1e-9)
        matching_masks.add(int(match))
    assert len(matching_masks) > 4


@pytest.mark.parametrize("cell", CELLS)
def test_output_dropout_multiplies_the_states_before_the_vocabulary_layer(backend, cell):
    captions, rate = np.array([[1, 4]]), 0.5
    features = features_for(captions)
    expected = []
    for bits in itertools.product([0, 1], repeat=SIZES["hidden_dim"]):
        # a mask on the only hidden state is a mask on the rows of the projection
        params = parameters(cell)
        params["W_vocab"] = params["W_vocab"] * np.array(bits)[:, None] / (1 - rate)
        expected.append(captioner.loss(params, features, captions)[0])
    model = model_of(backend, cell, output_dropout=rate)
    matching_masks = set()
    for key in range(60):
        loss = float(model.loss(backend.asarray(features), captions, dropout_key=key)[0])
        (match,) = np.flatnonzero(np.abs(np.array(expected) - loss) < 1e-9)
        matching_masks.add(int(match))
    assert len(matching_masks) > 16


@pytest.mark.parametrize("cell", CELLS)
def test_masks_are_the_same_on_every_backend(backend, cell):
    captions = CAPTIONS["NULL inside"]
    features = features_for(captions)
    loss, _ = model_of(backend, cell, **BOTH).loss(backend.asarray(features), captions, dropout_key=77)
    with capgpu.use_backend("numpy"):
        host = capgpu.CaptioningRNN(WORDS, **SIZES, cell_type=cell, dtype=np.float64, **BOTH)
        host.params.update(parameters(cell))
        expected, _ = host.loss(features, captions, dropout_key=77)
    assert distance(float(loss), float(expected)) < 1e-10


@pytest.mark.parametrize("cell", CELLS)
def test_sampling_applies_no_dropout(backend, cell):
    features = backend.asarray(features_for(CAPTIONS["padded"]))
    expected = frozen(model_of(backend, cell).sample(features, 8))
    assert frozen(model_of(backend, cell, **BOTH).sample(features, 8)) == expected
