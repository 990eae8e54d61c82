"""Bad arguments: refused before any work, by a message that names the argument and what would mend it."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu import layers

F = np.zeros


def recurrent(gates, **changes):
    arguments = {
        "x": F((2, 3, 4)),
        "h0": F((2, 5)),
        "Wx": F((4, gates * 5)),
        "Wh": F((5, gates * 5)),
        "b": F(gates * 5),
    }
    return {**arguments, **changes}


def step(gates, **changes):
    arguments = recurrent(gates)
    arguments["x"], arguments["prev_h"] = F((2, 4)), arguments.pop("h0")
    if gates == 4:
        arguments["prev_c"] = F((2, 5))
    return {**arguments, **changes}


REFUSED = {
    # rank
    "affine x": (layers.affine_forward, {"x": F(3), "w": F((3, 4)), "b": F(4)}, "x: expected .*at least 2"),
    "affine w": (
        layers.affine_forward,
        {"x": F((2, 3)), "w": F(3), "b": F(4)},
        r"w: expected .*\(D, M\).*got .*\(3,\)",
    ),
    "temporal x": (
        layers.temporal_affine_forward,
        {"x": F((2, 3)), "w": F((4, 5)), "b": F(5)},
        r"x: expected .*\(N, T, D\) with D = 4.*got .*\(2, 3\)",
    ),
    "rnn x": (layers.rnn_forward, recurrent(1, x=F((2, 4))), r"x: expected .*\(N, T, D\).*got .*\(2, 4\)"),
    "lstm h0": (layers.lstm_forward, recurrent(4, h0=F(5)), r"h0: expected .*\(N, H\).*got .*\(5,\)"),
    "embedding W": (layers.word_embedding_forward, {"x": np.zeros((1, 3), int), "W": F(4)}, "W: expected shape"),
    "softmax x": (
        layers.temporal_softmax_loss,
        {"x": F(2), "y": np.zeros(2, int), "mask": np.ones(2, bool)},
        r"x: expected .*at least 2 dimensions.*got .*\(2,\)",
    ),
    # extents
    "affine inner": (
        layers.affine_forward,
        {"x": F((2, 3, 4)), "w": F((5, 6)), "b": F(6)},
        "x: expected 5 features.* got 12",
    ),
    "affine b": (
        layers.affine_forward,
        {"x": F((2, 5)), "w": F((5, 6)), "b": F(7)},
        "b: expected .*M = 6, as in w",
    ),
    "temporal inner": (
        layers.temporal_affine_forward,
        {"x": F((2, 3, 4)), "w": F((5, 6)), "b": F(6)},
        "x: expected .*D = 5, as in w",
    ),
    "rnn batch": (layers.rnn_forward, recurrent(1, h0=F((3, 5))), "h0: expected .*N = 2, as in x"),
    "rnn Wh": (layers.rnn_forward, recurrent(1, Wh=F((5, 6))), "Wh: expected .*must be 5"),
    "rnn Wx of an lstm": (
        layers.rnn_forward,
        recurrent(1, Wx=F((4, 20))),
        "Wx: expected .*must be 5",
    ),
    "rnn step b": (layers.rnn_step_forward, step(1, b=F(6)), "b: expected .*must be 5"),
    "lstm Wx of an rnn": (
        layers.lstm_forward,
        recurrent(4, Wx=F((4, 5))),
        "Wx: expected .*4H, a multiple of 4",
    ),
    "lstm Wh": (layers.lstm_forward, recurrent(4, Wh=F((5, 24))), "Wh: expected .*must be 20"),
    "lstm step prev_c": (
        layers.lstm_step_forward,
        step(4, prev_c=F((2, 6))),
        "prev_c: expected .*H = 5, as in prev_h",
    ),
    "softmax y": (
        layers.temporal_softmax_loss,
        {"x": F((2, 3, 4)), "y": np.zeros((2, 4), int), "mask": np.ones((2, 3), bool)},
        r"y: expected shape \(2, 3\), .*got \(2, 4\)",
    ),
    "softmax mask": (
        layers.temporal_softmax_loss,
        {"x": F((2, 3, 4)), "y": np.zeros((2, 3), int), "mask": np.ones((3, 2), bool)},
        r"mask: expected shape \(2, 3\), got .*\(3, 2\)",
    ),
    # nothing to work on
    "affine empty": (
        layers.affine_forward,
        {"x": F((0, 3)), "w": F((3, 4)), "b": F(4)},
        "x: expected .*dimension N of at least 1",
    ),
    "rnn no steps": (
        layers.rnn_forward,
        recurrent(1, x=F((2, 0, 4))),
        "x: expected .*dimension T of at least 1",
    ),
    "embedding empty": (
        layers.word_embedding_forward,
        {"x": np.zeros((0, 3), int), "W": F((4, 2))},
        "x: expected at least one token id, got",
    ),
    # ids
    "embedding high": (
        layers.word_embedding_forward,
        {"x": np.array([[0, 4]]), "W": F((4, 2))},
        r"x: expected ids in 0\.\.3 for the 4 entries of W, got 4",
    ),
    "embedding low": (
        layers.word_embedding_forward,
        {"x": np.array([[0, -1]]), "W": F((4, 2))},
        r"x: expected ids in 0\.\.3.*got -1",
    ),
    "softmax id": (
        layers.temporal_softmax_loss,
        {"x": F((1, 1, 4)), "y": np.array([[4]]), "mask": np.ones((1, 1), bool)},
        r"y: expected ids in 0\.\.3.*got 4",
    ),
}

REFUSED_TYPES = {
    "integers": (
        layers.affine_forward,
        {"x": np.ones((2, 3), int), "w": F((3, 4)), "b": F(4)},
        r"x: expected .*got .*int64.*x\.astype",
    ),
    "two dtypes": (
        layers.lstm_forward,
        recurrent(4, Wh=F((5, 20), dtype=np.float32)),
        r"Wh: expected .*got .*float32.*Wh\.astype\(x\.dtype\)",
    ),
    "float ids": (
        layers.word_embedding_forward,
        {"x": F((2, 3)), "W": F((4, 2))},
        r"x: expected .*got .*float64.*x\.astype",
    ),
    "bool ids": (
        layers.word_embedding_forward,
        {"x": np.ones((2, 3), bool), "W": F((4, 2))},
        "x: expected .*got .*bool",
    ),
    "float targets": (
        layers.temporal_softmax_loss,
        {"x": F((2, 3, 4)), "y": F((2, 3)), "mask": np.ones((2, 3), bool)},
        r"y: expected .*got .*float64.*y\.astype",
    ),
    "whole mask": (
        layers.temporal_softmax_loss,
        {"x": F((2, 3, 4)), "y": np.zeros((2, 3), int), "mask": np.ones((2, 3), int)},
        "mask: expected dtype bool, got .*int64.*mask != 0",
    ),
    "a list": (
        layers.affine_forward,
        {"x": [[1.0]], "w": F((1, 4)), "b": F(4)},
        r"x: expected an array, got a .*list.*capgpu\.asarray\(x\)",
    ),
    "nothing": (layers.lstm_forward, recurrent(4, h0=None), "h0: expected an array, got None"),
    "no words": (layers.word_embedding_forward, {"x": None, "W": F((4, 2))}, "x: expected an array, got None"),
    "no mask": (
        layers.temporal_softmax_loss,
        {"x": F((2, 3, 4)), "y": np.zeros((2, 3), int), "mask": None},
        "mask: expected an array, got None",
    ),
    "a number": (layers.rnn_step_forward, step(1, b=np.float64(1)), "b: expected an array, got a numpy.float64"),
}


def on_backend(backend, arguments):
    return {
        name: backend.asarray(value) if isinstance(value, np.ndarray) else value for name, value in arguments.items()
    }


@pytest.mark.parametrize(("function", "arguments", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_values_and_shapes_are_refused(backend, function, arguments, message):
    with pytest.raises(ValueError, match=message):
        function(**on_backend(backend, arguments))


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize(("function", "arguments", "message"), REFUSED_TYPES.values(), ids=REFUSED_TYPES)
def test_wrong_types_are_refused(backend, function, arguments, message):
    with pytest.raises(TypeError, match=message):
        function(**on_backend(backend, arguments))


def upstream_refusals():
    """Yield a backward pass, its arguments on the host, and the words wanted."""
    rnn = layers.rnn_forward(**recurrent(1))[1]
    lstm = layers.lstm_forward(**recurrent(4))[1]
    rnn_step = layers.rnn_step_forward(**step(1))[1]
    lstm_step = layers.lstm_step_forward(**step(4))[2]
    affine = layers.affine_forward(F((2, 3)), F((3, 4)), F(4))[1]
    temporal = layers.temporal_affine_forward(F((2, 3, 4)), F((4, 5)), F(5))[1]
    embedding = layers.word_embedding_forward(np.zeros((2, 3), int), F((4, 5)))[1]
    yield layers.rnn_backward, (F((2, 4, 5)), rnn), "dh: expected 3 steps.* got 4"
    yield layers.rnn_backward, (F((2, 3, 6)), rnn), "dh: expected .*H = 5"
    yield layers.lstm_backward, (F((3, 2, 5)), lstm), "dh: expected .*N = 2"
    yield layers.lstm_backward, (F((2, 2, 5)), lstm), "dh: expected 3 steps.* got 2"
    yield layers.rnn_step_backward, (F((2, 6)), rnn_step), "dnext_h: expected .*H = 5"
    yield layers.lstm_step_backward, (F((2, 5)), F((3, 5)), lstm_step), "dnext_c: expected .*N = 2"
    yield layers.affine_backward, (F((2, 5)), affine), "dout: expected .*M = 4"
    yield layers.temporal_affine_backward, (F((2, 3, 4)), temporal), "dout: expected .*M = 5"
    yield (
        layers.word_embedding_backward,
        (F((3, 2, 5)), embedding),
        r"dout: expected shape \(2, 3, D\).*got .*\(3, 2, 5\)",
    )


@pytest.mark.parametrize("index", range(9))
def test_wrong_upstream_gradients_are_refused(index):
    capgpu.set_backend("numpy")
    function, arguments, message = list(upstream_refusals())[index]
    with pytest.raises(ValueError, match=message):
        function(*arguments)


def test_an_upstream_gradient_of_another_dtype_is_refused(backend):
    _, cache = layers.lstm_forward(**on_backend(backend, recurrent(4)))
    with pytest.raises(TypeError, match=r"dh: expected .*got .*float32"):
        layers.lstm_backward(backend.asarray(np.zeros((2, 3, 5), np.float32)), cache)


def test_mixed_host_and_device_arrays_are_refused(device):
    arguments = {name: capgpu.asarray(value) for name, value in recurrent(4).items()}
    arguments["Wh"] = np.zeros((5, 20))
    with pytest.raises(TypeError, match=r"x is a CuPy array \(device\) and Wh is a NumPy .*capgpu\.asarray\(Wh\)"):
        layers.lstm_forward(**arguments)
    arguments["Wh"] = capgpu.asarray(arguments["Wh"])
    h, cache = layers.lstm_forward(**arguments)
    with pytest.raises(TypeError, match=r"dh is a NumPy array .*capgpu\.asarray\(dh\)"):
        layers.lstm_backward(capgpu.to_numpy(h), cache)


def caches():
    """Return a cache of each forward pass, of sizes that would let gradients of one pass for those of another."""

    def ones(*shape):
        return np.ones(shape)

    x, sequences, h = ones(2, 4), ones(2, 1, 4), ones(2, 4)
    weights = {
        name: (ones(4, gates * 4), ones(4, gates * 4), ones(biases * 4))
        for name, gates, biases in (("rnn", 1, 1), ("lstm", 4, 4), ("gru", 3, 4))
    }
    Wx, Wh, b = weights["lstm"]
    arguments = {
        **{f"{name}_step": (x, *[h] * (1 + (name == "lstm")), *weights[name]) for name in weights},
        **{name: (sequences, h, *weights[name]) for name in weights},
        "attention_step": (x, h, h, h, Wx, Wh, Wh, b),
        "attention": (sequences, ones(2, 4, 2, 2), Wx, Wh, Wh, b),
        "affine": (x, ones(4, 4), ones(4)),
        "temporal_affine": (sequences, ones(4, 4), ones(4)),
        "word_embedding": (np.zeros((2, 1), int), ones(5, 4)),
    }
    return {name: getattr(layers, f"{name}_forward")(*given)[-1] for name, given in arguments.items()}


def test_a_backward_pass_refuses_the_cache_of_every_other_function():
    given = caches()
    for name in given:
        backward = getattr(layers, f"{name}_backward")
        upstream = [np.ones((2, 4) if "step" in name or name == "affine" else (2, 1, 4))]
        upstream *= 1 + (name in ("lstm_step", "attention_step"))
        backward(*upstream, given[name])
        expected = f"cache: expected what {name}_forward returned last, got"
        for other in given.keys() - {name}:
            with pytest.raises(TypeError, match=f"{expected} that of {other}_forward"):
                backward(*upstream, given[other])
        for other in (None, (*upstream, given[name])):
            with pytest.raises(TypeError, match=f"{expected} a {type(other).__name__}"):
                backward(*upstream, other)
