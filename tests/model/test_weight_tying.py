"""Tied weights: one matrix reads words and scores them, and its gradient is the sum of both uses."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tiny_captioner import dataset

import capgpu
from capgpu import CaptioningRNN, CaptioningSolver
from capgpu.checkpoint import load_model, load_weights, save_model, save_weights
from capgpu.decode import beam_search
from oracles import captioner
from oracles.decoding import Writer
from oracles.numbers import TOLERANCE, distance, numeric_gradient
from oracles.scenes import CAPTIONS, CELLS, WORDS, features_for, parameters
from oracles.snapshots import frozen

SIZES = {"input_dim": 3, "wordvec_dim": 5, "hidden_dim": 5}


def tied_parameters(cell, dtype="float64", **sizes):
    params = parameters(cell, dtype=dtype, **{**SIZES, **sizes})
    del params["W_vocab"]
    return params


def untied(params):
    """Give the same computation's eight parameters, in float64."""
    exact = {name: value.astype(np.float64) for name, value in params.items()}
    return {**exact, "W_vocab": exact["W_embed"].T.copy()}


def model_of(backend, cell, params, dtype="float64", **settings):
    sizes = {**SIZES, "wordvec_dim": params["Wh"].shape[0], "hidden_dim": params["Wh"].shape[0]}
    return backend.model(WORDS, **sizes, cell_type=cell, dtype=dtype, params=params, tie_weights=True, **settings)


@pytest.mark.nightly(unless=lambda p: p.backend != "cuda" or (p.cell, p.hidden) == ("rnn", 5))
# enough captions that no target makes the whole pass in one call, and few
@pytest.mark.parametrize("captions", [CAPTIONS["padded"], np.tile(CAPTIONS["NULL inside"], (20, 1))], ids=len)
@pytest.mark.parametrize("hidden", [5, 64])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_the_gradient_of_the_vectors_is_the_sum_of_both_uses(backend, cell, dtype, hidden, captions):
    params = tied_parameters(cell, dtype, wordvec_dim=hidden, hidden_dim=hidden)
    params = {name: value / np.dtype(dtype).type(hidden**0.5) for name, value in params.items()}
    features = features_for(captions, dtype)
    model = model_of(backend, cell, params, dtype)
    want_loss, expected = captioner.loss(untied(params), features.astype(np.float64), captions)
    expected["W_embed"] += expected.pop("W_vocab").T
    loss, grads = model.loss(backend.asarray(features), captions)
    assert distance(backend.to_numpy(loss), want_loss) < TOLERANCE[dtype]["forward"]
    assert list(grads) == list(model.params)
    for name, gradient in grads.items():
        assert gradient.dtype == model.params[name].dtype, name
        assert distance(backend.to_numpy(gradient), expected[name]) < TOLERANCE[dtype]["gradient"], name


@pytest.mark.parametrize("key", [None, 5], ids=["plain", "dropout"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_agree_with_differences_of_the_loss(backend, cell, key):
    captions = np.array([[1, 0, 5, 0, 2, 0], [0, 4, 0, 5, 2, 1], [1, 4, 2, 0, 0, 0]])
    params = tied_parameters(cell, wordvec_dim=2, hidden_dim=2)
    features = backend.asarray(features_for(captions))
    model = model_of(backend, cell, params, feature_dropout=0.4, output_dropout=0.4)
    _, grads = model.loss(features, captions, dropout_key=key)
    for name in ("W_embed", "Wx", "b_vocab"):

        def loss(moved, name=name):
            model.params[name] = backend.asarray(moved)
            return float(model.loss(features, captions, dropout_key=key)[0])

        expected = numeric_gradient(loss, params[name])
        model.params[name] = backend.asarray(params[name])
        assert distance(backend.to_numpy(grads[name]), expected) < 1e-6, name


@pytest.mark.parametrize("cell", CELLS)
def test_likelihood_and_captions_equal_those_of_the_untied_computation(backend, cell):
    captions, params = CAPTIONS["padded"], {k: 3 * v for k, v in tied_parameters(cell).items()}
    features = features_for(captions)
    model = model_of(backend, cell, params)
    total, tokens = model.nll(backend.asarray(features), captions)
    assert distance(backend.to_numpy(total) / len(captions), captioner.loss(untied(params), features, captions)[0]) < (
        1e-10
    )
    assert tokens == (captions[:, 1:] != 0).sum()
    words = backend.to_numpy(model.sample(backend.asarray(features), 9))
    assert words.tolist() == captioner.sample(untied(params), features, WORDS["<START>"], 9).tolist()
    params["b_vocab"][[WORDS["<NULL>"], WORDS["<START>"]]] -= 99.0
    beam_results = beam_search(model_of(backend, cell, params), backend.asarray(features), 3, max_length=5)
    writers = [Writer(untied(params), feature) for feature in features]
    for writer, row, score in zip(writers, *(backend.to_numpy(part)[:, 0] for part in beam_results[::2]), strict=True):
        assert writer.log_prob(tuple(word for word in row.tolist() if word)) == pytest.approx(float(score), abs=1e-9)


def test_a_replaced_or_overwritten_matrix_is_used_in_both_places(backend):
    captions, params = CAPTIONS["padded"], tied_parameters("lstm")
    features = backend.asarray(features_for(captions))
    model = model_of(backend, "lstm", params)
    model.params["W_embed"] = backend.asarray(params["W_embed"].copy())
    model.params["W_embed"][...] = backend.asarray(-params["W_embed"] + 0.5)
    moved = {**params, "W_embed": -params["W_embed"] + 0.5}
    expected, _ = captioner.loss(untied(moved), features_for(captions), captions)
    assert distance(backend.to_numpy(model.loss(features, captions)[0]), expected) < 1e-10


def test_an_added_projection_is_refused(backend):
    captions = CAPTIONS["padded"]
    features = backend.asarray(features_for(captions))
    model = model_of(backend, "lstm", tied_parameters("lstm"))
    model.params["W_vocab"] = backend.asarray(np.ones((5, len(WORDS))))  # as a file of an untied model has it
    with pytest.raises(ValueError, match=r"params\['W_vocab'\]: expected the entries .* del model.params"):
        model.loss(features, captions)


def test_vectors_and_states_of_other_lengths_are_refused():
    with pytest.raises(ValueError, match=r"wordvec_dim: expected 5, as hidden_dim, .* got 4"):
        CaptioningRNN(WORDS, 3, 4, 5, tie_weights=True)


def test_there_is_no_parameter_of_the_projection_and_none_is_needed():
    capgpu.set_backend("numpy")
    model = CaptioningRNN(WORDS, **SIZES, cell_type="lstm", seed=0, tie_weights=True)
    assert list(model.params) == ["W_embed", "W_proj", "b_proj", "Wx", "Wh", "b", "b_vocab"]
    again = CaptioningRNN(WORDS, **json.loads(json.dumps(model.config)), seed=0)
    assert frozen(again.params) == frozen(model.params)


def test_files_keep_the_tie_and_older_files_have_none(tmp_path):
    capgpu.set_backend("numpy")
    for tie in (False, True):
        model = CaptioningRNN(WORDS, **SIZES, cell_type="lstm", seed=0, tie_weights=tie)
        save_model(tmp_path / "model.safetensors", model)
        loaded = load_model(tmp_path)
        assert loaded.tie_weights is tie
        assert frozen(loaded.params) == frozen(model.params)
    untied_model = CaptioningRNN(WORDS, **SIZES, seed=0)
    save_model(tmp_path / "model.safetensors", untied_model)
    params, metadata = load_weights(tmp_path / "model.safetensors")
    del metadata["config"]["tie_weights"]  # as versions without tied weights wrote it
    save_weights(tmp_path / "model.safetensors", params, metadata)
    assert frozen(load_model(tmp_path).params) == frozen(untied_model.params)


@pytest.mark.usefixtures("sigint_is_not_ignored")
def test_a_solver_trains_a_tied_model_and_resumes_with_the_same_bits(tmp_path):
    capgpu.set_backend("numpy")
    data = dataset()

    def solver(**settings):
        words = data["word_to_idx"]
        model = CaptioningRNN(words, 6, 8, 8, "lstm", seed=1, output_dropout=0.2, tie_weights=True)
        config = {"learning_rate": 0.01}
        return CaptioningSolver(model, data, "adam", config, batch_size=5, verbose=False, seed=2, **settings)

    whole = solver(num_epochs=6)
    whole.train()
    assert whole.val_loss_history[-1] < whole.val_loss_history[0]
    with pytest.raises(KeyboardInterrupt):
        solver(num_epochs=6, checkpoint=tmp_path, callbacks=[stop_in_third_epoch]).train()
    resumed = solver(num_epochs=6, checkpoint=tmp_path, resume=True)
    assert resumed.epoch == 3
    resumed.train()
    assert frozen(resumed.model.params) == frozen(whole.model.params)


def stop_in_third_epoch(solver, record):
    import signal

    if record["epoch"] == 3:
        signal.raise_signal(signal.SIGINT)


def test_a_solver_sees_a_vocabulary_that_does_not_fit():
    capgpu.set_backend("numpy")
    model = CaptioningRNN({"<NULL>": 0, "<START>": 1, "<END>": 2}, 6, 8, 8, "lstm", tie_weights=True)
    with pytest.raises(ValueError, match="for 3 token ids of the vocabulary"):
        CaptioningSolver(model, dataset(), verbose=False)
