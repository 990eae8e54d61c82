"""The parameters: how they begin, and that they may be changed at any time."""

from __future__ import annotations

import json

import numpy as np
import pytest

import capgpu
from capgpu import CaptioningRNN
from oracles.scenes import CAPTIONS, CELLS, SIZES, WORDS, features_for, parameters
from oracles.snapshots import frozen

NAMES = ["W_embed", "W_proj", "b_proj", "Wx", "Wh", "b", "W_vocab", "b_vocab"]


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("cell", CELLS)
def test_a_seed_gives_the_same_parameters_everywhere(backend, cell):
    model = CaptioningRNN(WORDS, **SIZES, cell_type=cell, seed=11)
    assert {capgpu.array_namespace(*model.params.values())} == {capgpu.current_backend().xp}
    second_model = CaptioningRNN(WORDS, **SIZES, cell_type=cell, seed=11)
    assert frozen(second_model.params) == frozen(model.params)
    with capgpu.use_backend("numpy"):
        host = CaptioningRNN(WORDS, **SIZES, cell_type=cell, seed=11)
    assert frozen(host.params) == frozen(model.params)


def test_other_seeds_and_no_seed_give_other_parameters():
    seeds = [0, 1, None, None]
    drawn = [frozen(CaptioningRNN(WORDS, **SIZES, seed=seed).params["Wh"]) for seed in seeds]
    assert len({str(each) for each in drawn}) == len(seeds)


def test_a_seed_gives_the_same_numbers_in_every_dtype():
    exact = CaptioningRNN(WORDS, **SIZES, dtype=np.float64, seed=5).params
    for dtype in (np.float16, np.float32):
        rounded = CaptioningRNN(WORDS, **SIZES, dtype=dtype, seed=5).params
        for name in NAMES:
            assert np.array_equal(rounded[name], exact[name].astype(dtype)), name


@pytest.mark.parametrize("cell", CELLS)
def test_initial_scales_equal_the_exercises(cell):
    words = {"<NULL>": 0, **{str(k): k for k in range(1, 300)}}
    params = CaptioningRNN(words, 200, 150, 100, cell, seed=0).params
    for name, scale in {
        "W_embed": 0.01,
        "W_proj": 1 / np.sqrt(200),
        "Wx": 1 / np.sqrt(150),
        "Wh": 1 / np.sqrt(100),
        "W_vocab": 1 / np.sqrt(100),
    }.items():
        assert abs(params[name].std() / scale - 1) < 0.03, name
        assert abs(params[name].mean() / scale) < 0.03, name
    for name in ("b_proj", "b", "b_vocab"):
        assert not params[name].any()


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("cell", CELLS)
def test_a_replaced_or_overwritten_parameter_is_used_at_once(backend, cell, name):
    captions = CAPTIONS["padded"]
    features = backend.asarray(features_for(captions))

    def results(model):
        return frozen([model.loss(features, captions), model.nll(features, captions), model.sample(features, 9)])

    def fresh(params):
        return backend.model(WORDS, **SIZES, cell_type=cell, dtype=np.float64, params=params)

    before, after = parameters(cell), parameters(cell)
    after[name] = -after[name] + 0.5
    model = fresh(before)
    wanted_before, wanted_after = results(fresh(before)), results(fresh(after))
    assert wanted_before != wanted_after
    assert results(model) == wanted_before
    model.params[name] = backend.asarray(after[name])
    assert results(model) == wanted_after
    model.params[name] = backend.asarray(before[name].copy())
    model.params[name][...] = backend.asarray(after[name])
    assert results(model) == wanted_after


def test_gradients_share_no_memory(backend):
    captions = CAPTIONS["padded"]
    model = backend.model(WORDS, **SIZES, cell_type="lstm", seed=0)
    features = backend.asarray(features_for(captions, "float32"))
    _, first = model.loss(features, captions)
    kept = frozen(first)
    model.loss(backend.asarray(features_for(captions, "float32") + 1), captions)
    assert frozen(first) == kept
    before = frozen(model.params)
    for gradient in first.values():
        gradient[...] = backend.asarray(np.full(gradient.shape, 9, np.float32))
    assert frozen(model.params) == before


@pytest.mark.parametrize("cell", CELLS)
def test_the_config_makes_the_same_model_again(cell):
    model = CaptioningRNN(
        WORDS,
        np.int64(6),
        np.int32(4),
        np.uint8(5),
        cell,
        np.float64,
        seed=np.int64(3),
        feature_dropout=np.float32(0.25),
        output_dropout=0.5,
    )
    config = json.loads(json.dumps(model.config))
    again = CaptioningRNN(WORDS, **config, seed=3)
    assert again.config == model.config
    assert frozen(again.params) == frozen(model.params)


def test_the_callers_vocabulary_is_copied():
    words = dict(WORDS)
    model = CaptioningRNN(words, **SIZES)
    words["new"] = 99
    assert model.word_to_idx == WORDS
    assert model.idx_to_word[4] == "cat"
