"""Models in float16 and bfloat16, on every backend: loss and gradients, all options, decoding, files."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.checkpoint import load_model, save_model
from capgpu.decode import beam_search, greedy, sample
from capgpu.optim import UPDATE_RULES, Optimizer, adam, clip_gradients
from oracles import captioner
from oracles.halves import HALVES
from oracles.numbers import TOLERANCE, distance
from oracles.scenes import CAPTIONS, CELLS, SIZES, WORDS, features_for, parameters
from oracles.snapshots import frozen

pytestmark = pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)


def model_of(backend, cell, dtype, **settings):
    params = {name: 0.5 * value for name, value in parameters(cell).items()}
    if settings.get("tie_weights"):
        settings |= {"wordvec_dim": SIZES["hidden_dim"]}
        params = {n: 0.5 * v for n, v in parameters(cell, wordvec_dim=SIZES["hidden_dim"]).items() if n != "W_vocab"}
    params = {name: value.astype(dtype) for name, value in params.items()}
    return backend.model(WORDS, **{**SIZES, **settings}, cell_type=cell, dtype=dtype, params=params)


def exact(backend, arrays):
    return {name: backend.to_numpy(value).astype(np.float64) for name, value in arrays.items()}


@pytest.mark.parametrize("scene", ["padded", "NULL inside"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("cell", CELLS)
def test_loss_and_gradients_agree_with_the_oracle(backend, cell, dtype, scene):
    captions = CAPTIONS[scene]
    model, features = model_of(backend, cell, dtype), features_for(captions).astype(dtype)
    loss, grads = model.loss(backend.asarray(features), captions)
    expected_array, expected = captioner.loss(exact(backend, model.params), features.astype(np.float64), captions)
    assert str(loss.dtype) == "float32"
    assert distance(backend.to_numpy(loss), expected_array) < TOLERANCE[dtype]["forward"]
    for name, gradient in grads.items():
        assert str(gradient.dtype) == dtype, name
        assert distance(backend.to_numpy(gradient), expected[name]) < TOLERANCE[dtype]["gradient"], name


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_option_keeps_the_dtype_and_is_close_to_float32(backend, cell, dtype):
    captions, options = CAPTIONS["padded"], {"label_smoothing": 0.2, "feature_dropout": 0.3, "output_dropout": 0.3}
    model = model_of(backend, cell, dtype, tie_weights=True, **options)
    wide = model_of(backend, cell, "float32", tie_weights=True, **options)
    wide.params = {name: backend.asarray(value.astype("float32")) for name, value in model.params.items()}
    features = backend.asarray(features_for(captions).astype(dtype))
    (loss, grads), (expected_array, expected) = (
        m.loss(f, captions, dropout_key=3) for m, f in ((model, features), (wide, features.astype("float32")))
    )
    assert distance(backend.to_numpy(loss), backend.to_numpy(expected_array)) < TOLERANCE[dtype]["forward"]
    for name, gradient in grads.items():
        assert str(gradient.dtype) == dtype, name
        assert distance(backend.to_numpy(gradient), backend.to_numpy(expected[name])) < 2 * TOLERANCE[dtype]["gradient"]


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("cell", CELLS)
def test_decoders_score_in_float32(backend, cell, dtype):
    captions = CAPTIONS["padded"]
    model = model_of(backend, cell, dtype)
    wide = model_of(backend, cell, "float32")
    wide.params = {name: backend.asarray(value.astype("float32")) for name, value in model.params.items()}
    features = backend.asarray(features_for(captions).astype(dtype))
    for decode in (greedy, lambda m, f, **k: beam_search(m, f, 3, **k), lambda m, f, **k: sample(m, f, seed=1, **k)):
        decoded = decode(model, features, max_length=4)
        assert str(decoded.log_probs.dtype) == str(decoded.scores.dtype) == "float32"
    best = beam_search(model, features, 3, max_length=4)
    expected = beam_search(wide, features.astype("float32"), 3, max_length=4)
    assert distance(backend.to_numpy(best.scores), backend.to_numpy(expected.scores)) < TOLERANCE[dtype]["forward"]
    total, tokens = model.nll(features, captions)
    assert str(total.dtype) == "float32"
    assert tokens == int((captions[:, 1:] != 0).sum())
    assert model.sample(features, 4, stop_at_end=True).shape == (3, 4)


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("rule", sorted(UPDATE_RULES))
def test_running_state_is_float32_and_parameters_keep_their_dtype(backend, rule, dtype):
    model, captions = model_of(backend, "rnn", dtype), CAPTIONS["padded"]
    optimizer, features = Optimizer(rule), backend.asarray(features_for(captions).astype(dtype))
    snapshot = exact(backend, model.params)
    _, grads = model.loss(features, captions)
    norm = optimizer.step(model.params, grads, clip_norm=0.5)
    assert str(norm.dtype) == "float32"
    assert {str(value.dtype) for value in model.params.values()} == {dtype}
    assert any((backend.to_numpy(value).astype(np.float64) != snapshot[n]).any() for n, value in model.params.items())
    state = [v for config in optimizer.configs.values() for v in config.values() if hasattr(v, "shape")]
    assert {str(value.dtype) for value in state} <= {"float32"}
    clipped, _ = clip_gradients(grads, 0.5)
    assert {str(value.dtype) for value in clipped.values()} == {dtype}


@pytest.mark.parametrize("dtype", HALVES)
def test_a_state_in_half_precision_is_refused(backend, dtype):
    w, m, v = (backend.asarray(np.ones(3, kind)) for kind in (dtype, dtype, "float32"))
    with pytest.raises(TypeError, match=rf"m: expected dtype float32, as w, got {dtype}"):
        adam(w, w, {"m": m, "v": v})
    assert str(adam(w, w, {"m": v, "v": v})[0].dtype) == dtype


@pytest.mark.parametrize("dtype", HALVES)
def test_files_keep_every_bit_and_are_loaded_on_any_backend(backend, dtype, tmp_path):
    model = model_of(backend, "lstm", dtype)
    path = save_model(tmp_path, model)
    assert frozen(load_model(path).params) == frozen(model.params)
    with capgpu.use_backend("numpy"):
        loaded = load_model(path)
        assert frozen(loaded.params) == frozen(model.params)
        assert loaded.dtype.name == dtype
        loss, _ = loaded.loss(features_for(CAPTIONS["padded"]).astype(dtype), CAPTIONS["padded"])
    own, _ = model.loss(backend.asarray(features_for(CAPTIONS["padded"]).astype(dtype)), CAPTIONS["padded"])
    assert distance(backend.to_numpy(own), loss) < TOLERANCE[dtype]["forward"]
