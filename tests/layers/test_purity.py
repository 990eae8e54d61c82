"""What a layer must not do: change what it was handed, change its mind, overflow, print."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu import layers
from oracles.layer_cases import LAYERS, Sizes
from oracles.numbers import distance
from oracles.snapshots import frozen

SIZES = Sizes(N=5, T=4, D=3, H=6, V=7)


def run(backend, case, arguments, upstream_seed=3):
    backend_arguments = {name: backend.asarray(value) for name, value in arguments.items()}
    outputs, cache = case.forward(**backend_arguments)
    random = np.random.default_rng(upstream_seed)
    upstream = tuple(
        backend.asarray(random.uniform(-1, 1, tuple(o.shape)), dtype=arguments[case.floats(arguments)[0]].dtype)
        for o in outputs
    )
    return backend_arguments, outputs, upstream, cache


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_arguments_outputs_and_caches_are_not_changed(backend, random, case, dtype):
    arguments = case.arguments(random, SIZES, dtype)
    backend_arguments, outputs, upstream, cache = run(backend, case, arguments)
    assert frozen(backend_arguments) == frozen(arguments)
    snapshot = frozen([outputs, upstream, cache])
    case.backward(upstream, cache)
    assert frozen([outputs, upstream, cache]) == snapshot


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_backward_twice_gives_the_same_bits(backend, random, case, dtype):
    _, _, upstream, cache = run(backend, case, case.arguments(random, SIZES, dtype))
    first = frozen(case.backward(upstream, cache))
    assert frozen(case.backward(upstream, cache)) == first


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_two_runs_give_the_same_bits(backend, random, case, dtype):
    arguments = case.arguments(random, Sizes(33, 3, 5, 33, 33), dtype)
    runs = []
    for _ in range(2):
        _, outputs, upstream, cache = run(backend, case, arguments)
        runs.append(frozen([outputs, case.backward(upstream, cache)]))
    assert runs[0] == runs[1]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_scores_of_ten_thousand_give_a_finite_loss(backend, dtype):
    x = np.array([[[1e4, -1e4, 0.0], [-1e4, 1e4, 0.0]]], dtype=dtype)
    y, mask = np.array([[1, 1]]), np.array([[True, True]])
    loss, dx = layers.temporal_softmax_loss(backend.asarray(x), backend.asarray(y), backend.asarray(mask))
    assert float(loss) == 2e4
    # a fused exponential may stop just above zero
    assert np.abs(backend.to_numpy(dx) - [[[1, -1, 0], [0, 0, 0]]]).max() < 1e-37


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["rnn", "lstm"])
def test_saturated_gates_stay_finite(backend, name, dtype):
    case = next(case for case in LAYERS if case.name == name)
    arguments = case.arguments(np.random.default_rng(4), SIZES, dtype)
    arguments["b"] = (1e4 * np.sign(arguments["b"])).astype(dtype)
    _, outputs, upstream, cache = run(backend, case, arguments)
    for result in (*outputs, *case.backward(upstream, cache)):
        assert np.isfinite(backend.to_numpy(result)).all()


def test_masked_words_may_have_any_id(backend, random):
    x = backend.asarray(random.standard_normal((2, 3, 4)))
    mask = backend.asarray(np.array([[True, True, False], [True, False, False]]))
    y = np.array([[1, 2, 0], [3, 0, 0]])
    wild = np.array([[1, 2, -9], [3, 999, 4]])
    expected = layers.temporal_softmax_loss(x, backend.asarray(y), mask)
    assert frozen(layers.temporal_softmax_loss(x, backend.asarray(wild), mask)) == frozen(expected)


def test_a_mask_of_zeros_gives_zero_loss_and_gradients(backend, random):
    x = backend.asarray(random.standard_normal((2, 3, 4)).astype(np.float32))
    y, mask = backend.asarray(np.zeros((2, 3), dtype=np.int64)), backend.asarray(np.zeros((2, 3), dtype=bool))
    loss, dx = layers.temporal_softmax_loss(x, y, mask)
    assert float(loss) == 0
    assert not backend.to_numpy(dx).any()


def test_only_a_verbose_loss_prints(backend, capsys):
    arguments = [np.zeros((2, 3, 4)), np.zeros((2, 3), dtype=np.int64), np.ones((2, 3), dtype=bool)]
    backend_arguments = [backend.asarray(argument) for argument in arguments]
    layers.temporal_softmax_loss(*backend_arguments)
    assert capsys.readouterr().out == ""
    layers.temporal_softmax_loss(*backend_arguments, verbose=True)
    assert "(2, 3, 4)" in capsys.readouterr().out


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "int64", "uint16", "uint32"])
def test_word_ids_may_have_any_integer_dtype(backend, random, dtype):
    words = np.array([[0, 3, 1], [99, 3, 0]])
    table = backend.asarray(random.standard_normal((300, 2)))
    dout = backend.asarray(random.standard_normal((2, 3, 2)))
    out, cache = layers.word_embedding_forward(backend.asarray(words), table)
    actual, got_cache = layers.word_embedding_forward(backend.asarray(words.astype(dtype)), table)
    assert frozen(actual) == frozen(out)
    gradient = layers.word_embedding_backward(dout, got_cache)
    assert frozen(gradient) == frozen(layers.word_embedding_backward(dout, cache))

    x = backend.asarray(random.standard_normal((2, 3, 300)))
    mask = backend.asarray(np.ones((2, 3), dtype=bool))
    expected = layers.temporal_softmax_loss(x, backend.asarray(words), mask)
    assert frozen(layers.temporal_softmax_loss(x, backend.asarray(words.astype(dtype)), mask)) == frozen(expected)


def test_the_gradient_of_a_repeated_word_is_the_sum_over_its_occurrences(backend):
    words = np.array([[2, 2, 2], [0, 2, 2]])
    dout = np.arange(12.0).reshape(2, 3, 2)
    _, cache = layers.word_embedding_forward(backend.asarray(words), backend.asarray(np.zeros((4, 2))))
    gradient = backend.to_numpy(layers.word_embedding_backward(backend.asarray(dout), cache))
    expected = np.zeros((4, 2))
    np.add.at(expected, words, dout)
    assert distance(gradient, expected) < 1e-15


def test_an_lstm_sequence_equals_its_single_steps(backend, random):
    N, T, D, H = 3, 4, 5, 6
    shapes = {"x": (N, T, D), "h0": (N, H), "Wx": (D, 4 * H), "Wh": (H, 4 * H), "b": (4 * H,)}
    host = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    backend_arguments = {name: backend.asarray(value) for name, value in host.items()}
    sequence_h, _ = layers.lstm_forward(**backend_arguments)
    h, c = backend_arguments["h0"], backend.asarray(np.zeros((N, H)))
    for t in range(T):
        x = backend.asarray(np.ascontiguousarray(host["x"][:, t]))
        h, c, _ = layers.lstm_step_forward(
            x, h, c, backend_arguments["Wx"], backend_arguments["Wh"], backend_arguments["b"]
        )
        assert distance(backend.to_numpy(h), backend.to_numpy(sequence_h)[:, t]) < 1e-12


def test_an_rnn_sequence_equals_its_single_steps(backend, random):
    N, T, D, H = 3, 4, 5, 6
    shapes = {"x": (N, T, D), "h0": (N, H), "Wx": (D, H), "Wh": (H, H), "b": (H,)}
    host = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    backend_arguments = {name: backend.asarray(value) for name, value in host.items()}
    sequence_h, _ = layers.rnn_forward(**backend_arguments)
    h = backend_arguments["h0"]
    for t in range(T):
        x = backend.asarray(np.ascontiguousarray(host["x"][:, t]))
        h, _ = layers.rnn_step_forward(x, h, backend_arguments["Wx"], backend_arguments["Wh"], backend_arguments["b"])
        assert distance(backend.to_numpy(h), backend.to_numpy(sequence_h)[:, t]) < 1e-12
