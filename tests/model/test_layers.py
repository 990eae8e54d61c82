"""Several recurrent layers: the loss, all gradients, dropout between layers, decoding and saving."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.decode import beam_search, greedy
from oracles import captioner
from oracles.decoding import Writer, captions, ranked
from oracles.numbers import TOLERANCE, distance, numeric_gradient
from oracles.scenes import CAPTIONS, CELLS, SIZES, WORDS, features_for, parameters
from oracles.snapshots import frozen


def model_of(backend, cell, dtype="float64", layers=2, spread=1.0, **settings):
    params = {n: (spread * v).astype(dtype) for n, v in parameters(cell, seed=7, layers=layers).items()}
    if settings.get("tie_weights"):
        del params["W_vocab"]
    sizes = SIZES if not settings.get("tie_weights") else {**SIZES, "wordvec_dim": SIZES["hidden_dim"]}
    if settings.get("tie_weights"):
        params |= {n: v for n, v in parameters(cell, layers=layers, **sizes).items() if n in params}
    model = backend.model(WORDS, **sizes, cell_type=cell, dtype=dtype, params=params, n_layers=layers, **settings)
    return model, {name: value.astype(np.float64) for name, value in params.items()}


@pytest.mark.nightly(unless=lambda p: p.cell == "gru" or (p.dtype == "float64" and p.backend != "cuda"))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("cell", "layers"), [*((cell, 2) for cell in CELLS), ("rnn", 3)])
def test_loss_and_gradients_agree_with_the_padded_computation(backend, cell, layers, dtype):
    model, params = model_of(backend, cell, dtype, layers)
    ids, features = CAPTIONS["NULL inside"], features_for(CAPTIONS["NULL inside"], dtype)
    loss, grads = model.loss(backend.asarray(features), ids)
    want_loss, expected = captioner.loss(params, features.astype(np.float64), ids)
    assert list(grads) == list(model.params) == list(params)
    assert distance(backend.to_numpy(loss), want_loss) < TOLERANCE[dtype]["forward"]
    for name, gradient in grads.items():
        assert distance(backend.to_numpy(gradient), expected[name]) < TOLERANCE[dtype]["gradient"], name
    total, _ = model.nll(backend.asarray(features), ids)
    assert distance(backend.to_numpy(total), want_loss * len(ids)) < TOLERANCE[dtype]["forward"]


@pytest.mark.nightly(unless=lambda p: p.cell == "gru" and p.backend != "cuda")
@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_agree_with_differences_of_the_loss_under_dropout(backend, cell, tied):
    rates = {"layer_dropout": 0.4, "output_dropout": 0.3, "feature_dropout": 0.3}
    model, params = model_of(backend, cell, tie_weights=tied, **rates)
    ids, features = CAPTIONS["padded"], backend.asarray(features_for(CAPTIONS["padded"]))
    _, grads = model.loss(features, ids, dropout_key=5)
    for name in ("Wx2", "Wh", "b", "b_proj"):
        value = params[name]

        def loss(moved, name=name):
            model.params[name] = backend.asarray(moved)
            return float(model.loss(features, ids, dropout_key=5)[0])

        expected = numeric_gradient(loss, value)
        model.params[name] = backend.asarray(value)
        assert distance(backend.to_numpy(grads[name]), expected) < 1e-6, name


def test_dropout_between_layers_is_that_between_layers_alone(backend):
    model, _ = model_of(backend, "lstm", layer_dropout=0.5)
    ids, features = CAPTIONS["padded"], backend.asarray(features_for(CAPTIONS["padded"]))
    plain = float(model.loss(features, ids)[0])
    losses = {float(model.loss(features, ids, dropout_key=key)[0]) for key in (1, 2, 3)}
    assert len(losses) == 3
    assert plain not in losses
    # what the second layer does not read cannot be dropped
    model.params["Wx2"] = 0 * model.params["Wx2"]
    expected = float(model.loss(features, ids)[0])
    assert float(model.loss(features, ids, dropout_key=1)[0]) == expected


@pytest.mark.nightly(unless=lambda p: p.cell == "gru" or p.backend != "cuda")
@pytest.mark.parametrize("cell", CELLS)
def test_decoders_agree_with_plain_loops(backend, cell):
    model, params = model_of(backend, cell, spread=2.0)
    features = np.random.default_rng(3).uniform(-2, 2, (4, SIZES["input_dim"]))
    on_backend = backend.asarray(features)
    words = backend.to_numpy(model.sample(on_backend, 9, stop_at_end=True))
    expected = captioner.sample(params, features, WORDS["<START>"], 9, end=WORDS["<END>"])
    assert words.tolist() == expected.tolist()
    first = greedy(model, on_backend, max_length=9)
    scores = [
        Writer(params, feature).log_prob(caption) for feature, caption in zip(features, words_of(first), strict=True)
    ]
    assert np.allclose(backend.to_numpy(first.scores)[:, 0], scores)
    found = beam_search(model, on_backend, 40, max_length=3)
    for row, feature in enumerate(features):
        best, caption = max(ranked(Writer(params, feature), captions([4, 5, 6], 3)))
        assert tuple(word for word in backend.to_numpy(found.ids)[row, 0].tolist() if word) == caption
        assert float(backend.to_numpy(found.scores)[row, 0]) == pytest.approx(best)


def words_of(result):
    ids = np.asarray(capgpu.backend.to_numpy(result.ids))[:, 0]
    return [tuple(word for word in row.tolist() if word) for row in ids]


def test_bfloat16_products_round_in_every_layer():
    ids, features = CAPTIONS["padded"], features_for(CAPTIONS["padded"], "float32")
    losses = {}
    for name in ("numpy", "cpu"):
        with capgpu.use_backend(name):
            model = capgpu.CaptioningRNN(WORDS, **SIZES, cell_type="gru", seed=1, n_layers=2, precision="bf16")
            model.params["Wx2"] = 30 * model.params["Wx2"]  # the rounding shows
            losses[name] = float(model.loss(features, ids)[0])
            model.precision = "float32"
            losses[f"{name} float32"] = float(model.loss(features, ids)[0])
    assert losses["numpy"] == pytest.approx(losses["cpu"], rel=1e-5)
    assert losses["cpu"] != pytest.approx(losses["cpu float32"], rel=1e-5)


def test_a_saved_model_has_its_layers(tmp_path):
    capgpu.set_backend("numpy")
    model = capgpu.CaptioningRNN(WORDS, **SIZES, cell_type="gru", seed=1, n_layers=3, layer_dropout=0.25)
    again = capgpu.CaptioningRNN.load(model.save(tmp_path))
    assert again.config == model.config
    assert frozen(again.params) == frozen(model.params)
    assert "n_layers=3, layer_dropout=0.25" in repr(again)


@pytest.mark.parametrize("count", [0, 65, 1.5, True])
def test_numbers_of_layers_out_of_range_are_refused(count):
    with pytest.raises(ValueError, match=r"n_layers: expected an integer in 1\.\.64, got"):
        capgpu.CaptioningRNN(WORDS, **SIZES, n_layers=count)
