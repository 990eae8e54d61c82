"""The captioner with attention: beside PyTorch, decoding, and features of the wrong shape."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu import CaptioningRNN
from capgpu.decode import GenerationConfig, beam_search, greedy, with_attention
from oracles.numbers import distance
from oracles.scenes import CAPTIONS, SIZES, WORDS
from oracles.snapshots import frozen

CELLS = 6


def grid_of(captions):
    return np.random.default_rng(8).uniform(-1, 1, (len(captions), CELLS, SIZES["input_dim"]))


def model_of(backend, dtype="float64", **settings):
    model = backend.model(WORDS, **SIZES, cell_type="attention", dtype=dtype, seed=0, **settings)
    random = np.random.default_rng(7)
    # biases and scores large enough to matter
    for name, value in model.params.items():
        model.params[name] = backend.asarray(random.uniform(-1, 1, value.shape).astype(dtype))
    return model


def with_torch(torch, params, features, captions):
    """Return loss, gradients and attention weights as PyTorch computes them over padded captions."""
    p = {name: torch.from_numpy(np.array(value)).requires_grad_() for name, value in params.items()}
    grid, ids = torch.from_numpy(features).requires_grad_(), torch.from_numpy(captions)
    A = grid @ p["W_proj"] + p["b_proj"]
    h = c = A.mean(1)
    states, maps = [], []
    for t in range(ids.shape[1] - 1):
        weights = torch.softmax((A @ h[:, :, None])[:, :, 0] / h.shape[1] ** 0.5, 1)
        context = (weights[:, None] @ A)[:, 0]
        a = p["W_embed"][ids[:, t]] @ p["Wx"] + h @ p["Wh"] + context @ p["Wattn"] + p["b"]
        i, f, o, g = a.chunk(4, 1)
        c = f.sigmoid() * c + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        states.append(h)
        maps.append(weights)
    scores = torch.stack(states, 1) @ p["W_vocab"] + p["b_vocab"]
    loss = torch.nn.functional.cross_entropy(scores.mT, ids[:, 1:], ignore_index=0, reduction="sum") / len(ids)
    loss.backward()
    grads = {name: value.grad.numpy() for name, value in p.items()} | {"features": grid.grad.numpy()}
    return loss.item(), grads, torch.stack(maps, 1).detach().numpy()


@pytest.mark.parametrize("scene", ["padded", "an empty caption", "one caption"])
def test_loss_gradients_and_weights_agree_with_pytorch(backend, scene):
    torch = pytest.importorskip("torch")
    captions = CAPTIONS[scene]
    features, model = grid_of(captions), model_of(backend)
    host = {name: backend.to_numpy(value) for name, value in model.params.items()}
    loss, expected, maps = with_torch(torch, host, features, captions)
    found, grads = model.loss(backend.asarray(features), captions, features_gradient=True)
    assert float(found) == pytest.approx(loss, rel=1e-10)
    assert grads.keys() == expected.keys()
    for name, gradient in grads.items():
        assert distance(backend.to_numpy(gradient), expected[name]) < 1e-10, name
    total, words = model.nll(backend.asarray(features), captions)
    assert float(total) == pytest.approx(loss * len(captions), rel=1e-10)
    assert words == (captions[:, 1:] != 0).sum()
    attention = backend.to_numpy(model.attention(backend.asarray(features), captions))
    for n, caption in enumerate(captions):
        length = int(np.flatnonzero(np.append(True, caption[1:] != 0))[-1])
        assert distance(attention[n, :length], maps[n, :length]) < 1e-10
        assert (attention[n, length:] == 0).all()


def test_decoders_agree_with_one_another_and_return_weights(backend):
    model, features = model_of(backend), backend.asarray(grid_of(range(4)))
    words = backend.to_numpy(model.sample(features, 6, stop_at_end=True))
    found = greedy(model, features, max_length=6, suppress_unk=False)
    ids = backend.to_numpy(found.ids)[:, 0]
    one = beam_search(model, features, 1, max_length=6, suppress_unk=False)
    assert backend.to_numpy(one.ids)[:, 0].tolist() == ids.tolist()
    assert not np.isin(words, [0, 1]).any()  # which `sample` may write, and the decoders not
    assert words.tolist() == ids.tolist()

    best = GenerationConfig(beam=3, captions=2, max_length=5, attention=True)(model, features)
    maps = backend.to_numpy(best.attention)
    assert maps.shape == (4, 2, 5, CELLS)
    written = backend.to_numpy(best.ids) != 0
    assert np.allclose(maps.sum(axis=3), written, atol=1e-12)
    # the score of a caption is that of the model that reads it
    captions = np.concatenate([np.ones((4, 1), int), backend.to_numpy(best.ids)[:, 0]], axis=1)
    total, _ = model.nll(features, captions)
    assert float(total) == pytest.approx(-backend.to_numpy(best.log_probs)[:, 0].sum(), rel=1e-10)
    # the weights are those of the steps
    state = model.begin(features)
    for t in range(2):
        _, state = model.step(state, backend.asarray(captions[:, t]))
        there = written[:, 0, t]
        assert np.allclose(backend.to_numpy(state.attention)[there], maps[there, 0, t], atol=1e-12)


def test_a_state_continues_with_the_cells_of_its_picture(backend):
    model, features = model_of(backend), grid_of(range(3))
    state = model.begin(backend.asarray(features))
    parents, last = backend.asarray(np.array([2, 0, 2, 1])), backend.asarray(np.array([1, 2, 0]))
    for words, rows in (([1, 1, 1, 1], parents), ([4, 5, 6], last)):
        _, state = model.step(state, backend.asarray(np.array(words)), rows)
    plain = model.begin(backend.asarray(features[[0, 2, 2]]))
    for words in ([1, 1, 1], [4, 5, 6]):
        _, plain = model.step(plain, backend.asarray(np.array(words)))
    assert distance(backend.to_numpy(state.h), backend.to_numpy(plain.h)) < 1e-12


def test_dropout_of_a_grid_drops_single_numbers(backend):
    model = model_of(backend, feature_dropout=0.5)
    captions, features = CAPTIONS["padded"], grid_of(CAPTIONS["padded"])
    _, grads = model.loss(backend.asarray(features), captions, dropout_key=1, features_gradient=True)
    dropped = backend.to_numpy(grads["features"]) == 0
    assert 0.2 < dropped.mean() < 0.8
    assert not np.array_equal(dropped[:, 0], dropped[:, 1])


def test_a_saved_model_comes_back(backend, tmp_path):
    model = model_of(backend, "float32")
    back = CaptioningRNN.load(model.save(tmp_path))
    assert back.config == model.config
    assert frozen(back.params) == frozen(model.params)
    assert "attention" in repr(back)


def test_features_of_the_wrong_shape_are_refused_with_a_remedy(backend):
    captions, grid = CAPTIONS["padded"], grid_of(CAPTIONS["padded"])
    model = model_of(backend)
    with pytest.raises(ValueError, match=r"expected shape \(N, L, 3\).* got \(3, 3\).*prepare --grid 7"):
        model.loss(backend.asarray(grid[:, 0]), captions)
    plain = backend.model(WORDS, **SIZES, cell_type="lstm", dtype="float64", seed=0)
    with pytest.raises(ValueError, match=r"expected shape \(N, 3\).* got \(3, 6, 3\).*'attention'"):
        plain.loss(backend.asarray(grid), captions)
    with pytest.raises(ValueError, match=r"attention: expected a model with cell_type='attention', got .*'lstm'"):
        plain.attention(backend.asarray(grid[:, 0]), captions)
    result = greedy(plain, backend.asarray(grid[:, 0]), max_length=2)
    with pytest.raises(ValueError, match="cell_type='attention'"):
        with_attention(plain, backend.asarray(grid[:, 0]), result)


def test_products_of_large_states_and_cells_do_not_leave_the_range_of_float16():
    capgpu.set_backend("numpy")
    model = CaptioningRNN(WORDS, 16, 4, 128, "attention", "float16", seed=0)
    loss, grads = model.loss(np.full((1, 2, 16), 40, np.float16), np.array([[1, 2]]))  # products of about 2e5
    assert np.isfinite(loss)
    assert all(np.isfinite(gradient).all() for gradient in grads.values())
