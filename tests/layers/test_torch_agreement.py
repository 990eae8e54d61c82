"""The recurrent layers and the model beside PyTorch's, in float64, forward and all gradients."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu import layers
from capgpu.sequence import Packing, pack
from oracles.numbers import distance
from oracles.scenes import CELLS, SIZES, WORDS, features_for, parameters

torch = pytest.importorskip("torch", reason="PyTorch is not installed: the agreement with it is not tested")

N, T, D, H = 4, 6, 3, 5
#: PyTorch's gates are i, f, g, o: where each of its blocks lies among i, f, o, g.
BLOCKS = {"rnn": [0], "lstm": [0, 1, 3, 2], "gru": [0, 1, 2]}


def reordered(weights, cell):
    """Turn (..., G) into PyTorch's (G, ...)."""
    blocks = np.split(weights, len(BLOCKS[cell]), axis=-1)
    return np.concatenate([blocks[k] for k in BLOCKS[cell]], axis=-1).T.copy()


def restored(gradient, cell):
    """Undo `reordered`."""
    blocks = np.split(gradient.numpy().T, len(BLOCKS[cell]), axis=-1)
    return np.concatenate([blocks[BLOCKS[cell].index(k)] for k in range(len(blocks))], axis=-1)


def module_of(cell, Wx, Wh, b):
    kind = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM, "gru": torch.nn.GRU}[cell]
    module = kind(*Wx.shape[:1], Wh.shape[0], batch_first=True).double()
    with torch.no_grad():
        module.weight_ih_l0.copy_(torch.from_numpy(reordered(Wx, cell)))
        module.weight_hh_l0.copy_(torch.from_numpy(reordered(Wh, cell)))
        module.bias_ih_l0.copy_(torch.from_numpy(reordered(b[: Wh.shape[1]], cell)))
        module.bias_hh_l0.zero_()
        if cell == "gru":  # the candidate's recurrent bias cannot be added to the other one
            module.bias_hh_l0[-Wh.shape[0] :] = torch.from_numpy(b[Wh.shape[1] :])
    return module


def gradients_of(module, cell):
    parameters = (module.weight_ih_l0, module.weight_hh_l0, module.bias_ih_l0)
    dWx, dWh, db = (restored(parameter.grad, cell) for parameter in parameters)
    further = module.bias_hh_l0.grad.numpy()[-dWh.shape[0] :] if cell == "gru" else []
    return [dWx, dWh, np.concatenate([db, further])]


def leaf(array):
    return torch.from_numpy(array.copy()).requires_grad_()


def states(cell, h0, c0):
    return (h0[None], c0[None]) if cell == "lstm" else h0[None]


def weights_of(random, cell):
    gates = len(BLOCKS[cell]) * H
    biases = gates + H * (cell == "gru")
    return [random.uniform(-1, 1, shape) for shape in ((D, gates), (H, gates), (biases,))]


@pytest.mark.parametrize("cell", CELLS)
def test_sequences_agree_with_pytorch(backend, random, cell):
    Wx, Wh, b = weights_of(random, cell)
    x, h0, dh = (random.uniform(-1, 1, shape) for shape in ((N, T, D), (N, H), (N, T, H)))
    forward, backward = {
        "rnn": (layers.rnn_forward, layers.rnn_backward),
        "lstm": (layers.lstm_forward, layers.lstm_backward),
        "gru": (layers.gru_forward, layers.gru_backward),
    }[cell]
    h, cache = forward(*(backend.asarray(array) for array in (x, h0, Wx, Wh, b)))
    gradients = backward(backend.asarray(dh), cache)

    module, tx, th0 = module_of(cell, Wx, Wh, b), leaf(x), leaf(h0)
    expected, _ = module(tx, states(cell, th0, torch.zeros(N, H).double()))
    expected.backward(torch.from_numpy(dh))
    assert distance(backend.to_numpy(h), expected.detach().numpy()) < 1e-10
    for actual, expected_array in zip(
        gradients, [tx.grad.numpy(), th0.grad.numpy(), *gradients_of(module, cell)], strict=True
    ):
        assert distance(backend.to_numpy(actual), expected_array) < 1e-10


@pytest.mark.parametrize("cell", CELLS)
def test_steps_agree_with_pytorch(backend, random, cell):
    Wx, Wh, b = weights_of(random, cell)
    x = random.uniform(-1, 1, (N, D))
    given = [random.uniform(-1, 1, (N, H)) for _ in range(2 if cell == "lstm" else 1)]
    upstream = [random.uniform(-1, 1, (N, H)) for _ in given]
    forward, backward = {
        "rnn": (layers.rnn_step_forward, layers.rnn_step_backward),
        "lstm": (layers.lstm_step_forward, layers.lstm_step_backward),
        "gru": (layers.gru_step_forward, layers.gru_step_backward),
    }[cell]
    *after, cache = forward(*(backend.asarray(array) for array in (x, *given, Wx, Wh, b)))
    gradients = backward(*(backend.asarray(array) for array in upstream), cache)

    module, tx, tgiven = module_of(cell, Wx, Wh, b), leaf(x), [leaf(array) for array in given]
    _, last = module(tx[:, None], states(cell, tgiven[0], tgiven[-1]))
    expected = [last[0][0], last[1][0]] if cell == "lstm" else [last[0]]
    torch.autograd.backward(expected, [torch.from_numpy(array) for array in upstream])
    for actual, expected_array in zip(after, expected, strict=True):
        assert distance(backend.to_numpy(actual), expected_array.detach().numpy()) < 1e-10
    expected = [tx.grad.numpy(), *(each.grad.numpy() for each in tgiven), *gradients_of(module, cell)]
    for actual, expected_array in zip(gradients, expected, strict=True):
        assert distance(backend.to_numpy(actual), expected_array) < 1e-10


def test_the_packed_layout_equals_pytorchs(random):
    lengths = [3, 6, 1, 5]
    padded = random.uniform(-1, 1, (4, 6, 2))
    packing = Packing.from_lengths(lengths)
    expected = torch.nn.utils.rnn.pack_padded_sequence(
        torch.from_numpy(padded), lengths, batch_first=True, enforce_sorted=False
    )
    assert np.array_equal(pack(padded, packing), expected.data.numpy())
    assert packing.batch_sizes.tolist() == expected.batch_sizes.tolist()
    assert packing.order.tolist() == expected.sorted_indices.tolist()


@pytest.mark.parametrize("cell", CELLS)
def test_the_whole_model_agrees_with_pytorch_over_captions_of_many_lengths(backend, cell):
    captions = np.array([[1, 4, 2, 0, 0], [1, 6, 5, 6, 2], [1, 2, 0, 0, 0], [1, 0, 5, 2, 0]])
    features, params = features_for(captions), parameters(cell)
    model = backend.model(WORDS, **SIZES, cell_type=cell, dtype=np.float64, params=params)
    loss, grads = model.loss(backend.asarray(features), captions)

    outer = {name: leaf(params[name]) for name in ("W_embed", "W_proj", "b_proj", "W_vocab", "b_vocab")}
    module = module_of(cell, params["Wx"], params["Wh"], params["b"])
    h0 = torch.from_numpy(features) @ outer["W_proj"] + outer["b_proj"]
    lengths = [int(np.flatnonzero(caption)[-1]) for caption in captions]
    packed = torch.nn.utils.rnn.pack_padded_sequence(
        outer["W_embed"][torch.from_numpy(captions[:, :-1])], lengths, batch_first=True, enforce_sorted=False
    )
    hidden, _ = module(packed, states(cell, h0, torch.zeros_like(h0)))
    hidden, _ = torch.nn.utils.rnn.pad_packed_sequence(hidden, batch_first=True, total_length=4)
    scores = hidden @ outer["W_vocab"] + outer["b_vocab"]
    expected = torch.nn.functional.cross_entropy(
        scores.reshape(-1, len(WORDS)),
        torch.from_numpy(captions[:, 1:].ravel()),
        ignore_index=0,
        reduction="sum",
    )
    expected = expected / len(captions)
    expected.backward()
    assert distance(float(loss), float(expected.detach())) < 1e-10
    inner = dict(zip(("Wx", "Wh", "b"), gradients_of(module, cell), strict=True))
    for name, gradient in grads.items():
        expected_array = inner[name] if name in inner else outer[name].grad.numpy()
        assert distance(backend.to_numpy(gradient), expected_array) < 1e-10, name
