"""Decoding on the device: the same words as step by step, first of equals, and a host that never waits."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.captioner_steps import greedy_captions
from capgpu.kernels.cells import CELLS
from capgpu.kernels.cuda import KERNELS
from capgpu.kernels.cuda.device_calls import counting
from capgpu.kernels.reference import KERNELS as REFERENCE
from capgpu.layers import cells
from capgpu.layers.lstm import LSTM
from capgpu.model import CaptioningRNN
from oracles.halves import ALL, HALVES
from oracles.numbers import distance
from simulators import cupy_standin

START, END, NULL = 1, 2, 0


def captioner(V=37, D=5, W=6, H=9, cell="lstm", dtype="float64", seed=0):
    words = {"<NULL>": NULL, "<START>": START, "<END>": END, **{f"w{k}": k for k in range(3, V)}}
    model = CaptioningRNN(words, D, W, H, cell, dtype, seed=seed)
    # louder than at the start of training: captions differ and end
    model.params = {name: value + value + value for name, value in model.params.items()}
    return model


def moved(device, model):
    return {name: device.asarray(value.get()) for name, value in model.params.items()}


@pytest.mark.nightly(unless=lambda p: p.cell != "gru" or (p.dtype == "float64" and p.V == 37))
@pytest.mark.parametrize("stop", [True, False])
@pytest.mark.parametrize("V", [4, 7, 37, 300])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_words_are_those_of_decoding_step_by_step(device, monkeypatch, cell, V, dtype, stop):
    model = captioner(V=V, cell=cell, dtype=dtype)
    features = device.asarray(np.random.default_rng(1).standard_normal((7, 5)).astype(dtype))
    actual = model.sample(features, 11, stop)
    monkeypatch.setenv("CAPGPU_KERNELS", "reference")
    assert (actual.get() == model.sample(features, 11, stop).get()).all()
    assert actual.dtype == np.int32
    assert len(np.unique(actual.get())) > 2


@pytest.mark.nightly(unless=lambda p: p.cell != "gru")
@pytest.mark.parametrize("V", [4, 300])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("dtype", HALVES)
def test_words_in_half_precision_are_those_of_float32_but_where_scores_are_close(device, cell, V, dtype):
    model, features = captioner(V=V, cell=cell, dtype=dtype), np.random.default_rng(1).standard_normal((50, 5))
    wide = captioner(V=V, cell=cell, dtype="float32")
    wide.params = {name: value.astype(np.float32) for name, value in model.params.items()}
    dev_features = device.asarray(features.astype(dtype))
    actual, expected = model.sample(dev_features, 3), wide.sample(dev_features.astype(np.float32), 3)
    assert np.mean(actual.get()[:, 0] == expected.get()[:, 0]) > 0.9


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("V", [4, 33, 1004])
def test_argmax_of_equal_scores_is_the_first(device, dtype, V):
    model = captioner(V=V, dtype=dtype)
    params = moved(device, model)
    bias = np.zeros(V, dtype)
    bias[[V // 2, V // 2 + 1, V - 1]] = 5
    params |= {"W_vocab": device.zeros_like(params["W_vocab"]), "b_vocab": device.asarray(bias)}
    words = greedy_captions(LSTM, params, device.ones((3, 5), dtype), 4, START, -1, NULL)
    assert (words.get() == V // 2).all()


def test_a_caption_that_has_ended_is_filled(device):
    params = moved(device, captioner(V=7))
    bias = np.zeros(7)
    bias[END] = 9
    params |= {"W_vocab": params["W_vocab"] * 0, "b_vocab": device.asarray(bias)}
    features = device.ones((3, 5))
    assert greedy_captions(LSTM, params, features, 3, START, END, NULL).get().tolist() == [[END, NULL, NULL]] * 3
    assert greedy_captions(LSTM, params, features, 3, START, -1, NULL).get().tolist() == [[END] * 3] * 3


def test_a_nan_score_is_ranked_highest(device):
    params = moved(device, captioner(V=300))
    bias = np.zeros(300)
    bias[[70, 203]] = np.nan
    params |= {"b_vocab": device.asarray(bias)}
    assert (greedy_captions(LSTM, params, device.ones((2, 5)), 2, START, -1, NULL).get() == 70).all()


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("V", "a_word"), [(37, 4), (900, 6)], ids=["vocabulary projected", "words projected"])
def test_greedy_decoding_does_not_synchronize(device, cell, V, a_word):
    params = moved(device, captioner(V=V, cell=cell))
    features = device.ones((3, 5))
    launches = []
    for length in (20, 21):
        with cupy_standin.forbid_synchronisation(), counting() as made:
            greedy_captions(cells.CELLS[cell], params, features, length, START, END, NULL)
        launches.append(len(made))
    assert launches[1] - launches[0] == a_word


@pytest.mark.parametrize("cell", CELLS)
def test_a_decoding_step_agrees_without_synchronization(device, cell):
    random, shape = np.random.default_rng(0), CELLS[cell]
    gates = shape.n_gates
    projected, h, c = (random.standard_normal(shape) for shape in ((33, gates * 7), (3, 7), (3, 7)))
    rows, Wh = np.array([32, 0, 5]), random.standard_normal((7, gates * 7))
    W, b = random.standard_normal((7, 33)), random.standard_normal(33)
    host = (projected, rows, h, c if shape.has_state else None, Wh, W, b)
    dev_arrays = [None if a is None else device.asarray(a) for a in host]
    bias = random.standard_normal(7) if shape.n_biases > gates else None
    dev_bias = None if bias is None else device.asarray(bias)
    with cupy_standin.forbid_synchronisation():
        actual = KERNELS.decode_step(*dev_arrays, recurrent_bias=dev_bias)
    for a, expected in zip(actual, REFERENCE.decode_step(*host, recurrent_bias=bias), strict=True):
        assert (a is None) == (expected is None)
        assert a is None or distance(a.get(), expected) < 1e-12
