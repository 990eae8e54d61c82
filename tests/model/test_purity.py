"""What the model must not do: change what it was handed, change its mind, change a dtype, hide a NaN."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import capgpu
from oracles.numbers import TOLERANCE, distance
from oracles.scenes import CAPTIONS, SIZES, WORDS, features_for, parameters
from oracles.snapshots import frozen

CELLS = ["rnn", "lstm"]
DROPOUT = {"feature_dropout": 0.2, "output_dropout": 0.2}


def model_of(backend, cell, dtype="float32", **sizes):
    sizes = {**SIZES, **sizes}
    params = parameters(cell, dtype=dtype, **sizes)
    return backend.model(WORDS, **sizes, cell_type=cell, dtype=dtype, params=params, **DROPOUT)


def everything(model, features, captions):
    return frozen(
        [
            model.loss(features, captions),
            model.loss(features, captions, dropout_key=4),
            model.nll(features, captions),
            model.sample(features, 5),
            model.sample(features, 5, stop_at_end=True),
        ]
    )


@pytest.mark.parametrize("captions", CAPTIONS.values(), ids=CAPTIONS)
@pytest.mark.parametrize("cell", CELLS)
def test_arguments_and_parameters_are_not_changed(backend, cell, captions):
    model, features = model_of(backend, cell), backend.asarray(features_for(captions, "float32"))
    snapshot = frozen([model.params, features, captions])
    everything(model, features, captions)
    assert frozen([model.params, features, captions]) == snapshot


@pytest.mark.nightly(unless=lambda p: p.backend != "cuda" or (p.cell, p.dtype) == ("rnn", "float32"))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_two_runs_give_the_same_bits(backend, cell, dtype, random):
    captions = random.integers(0, len(WORDS), (40, 9)) * (random.uniform(size=(40, 9)) < 0.8)
    model = model_of(backend, cell, dtype, hidden_dim=40)
    features = backend.asarray(features_for(captions, dtype))
    assert everything(model, features, captions) == everything(model, features, captions)


@pytest.mark.parametrize("backend", ["cpu"], indirect=True)
@pytest.mark.parametrize("cell", CELLS)
def test_concurrent_calls_give_the_bits_of_a_single_one(backend, cell, random):
    # wide enough for one call alone to be shared among threads
    model = model_of(backend, cell, hidden_dim=136)
    batches = []
    for _ in range(4):
        captions = random.integers(1, len(WORDS), (33, 12))
        batches.append((backend.asarray(random.uniform(-1, 1, (33, 3)).astype(np.float32)), captions))
    expected = [everything(model, *batch) for batch in batches]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(2):
            assert list(pool.map(lambda batch: everything(model, *batch), batches)) == expected


def test_the_number_of_threads_changes_no_bit(in_new_process):
    code = """
import sys
import numpy as np
sys.path.insert(0, TESTS)
import capgpu
from capgpu.optim import Optimizer
from oracles.snapshots import frozen
random = np.random.default_rng(0)
captions = random.integers(0, 90, (37, 14)) * (random.uniform(size=(37, 14)) < 0.9)
features = random.uniform(-1, 1, (37, 33)).astype(np.float32)
words = {"<NULL>": 0, "<START>": 1, **{str(k): k for k in range(2, 90)}}
for cell in ("rnn", "lstm"):
    model = capgpu.CaptioningRNN(words, 33, 40, 136, cell, seed=1)
    optimizer = Optimizer("adam", {"learning_rate": 0.01}, model.params)
    for _ in range(2):
        optimizer.step(model.params, model.loss(features, captions)[1])
    print(frozen([model.loss(features, captions), model.sample(features)]))
"""
    code = code.replace("TESTS", repr(str(Path(__file__).parents[1])))
    printed = {in_new_process(code, CAPGPU_BACKEND="cpu", CAPGPU_THREADS=threads) for threads in ("1", "2", "3")}
    assert len(printed) == 1


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("features", ["float64", "float16", "int64", "uint8"])
def test_features_are_converted_to_the_models_dtype(backend, cell, features):
    if backend.name == "strict" and features == "float16":
        features = "float64"
    captions = CAPTIONS["padded"]
    model, host = model_of(backend, cell), (3 * np.abs(features_for(captions))).astype(features)
    loss, grads = model.loss(backend.asarray(host), captions)
    wanted_loss, expected = model.loss(backend.asarray(host.astype(np.float32)), captions)
    assert frozen([loss, grads]) == frozen([wanted_loss, expected])
    assert {backend.to_numpy(value).dtype for value in (loss, *grads.values())} == {np.dtype(np.float32)}


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "int32", "uint32", "uint64"])
def test_captions_may_have_any_integer_dtype(backend, dtype):
    captions = CAPTIONS["NULL inside"]
    model, features = model_of(backend, "lstm"), backend.asarray(features_for(captions, "float32"))
    expected = everything(model, features, captions)
    assert everything(model, features, captions.astype(dtype)) == expected


def test_captions_may_be_on_the_device_of_the_features(backend):
    captions = CAPTIONS["NULL inside"]
    model, features = model_of(backend, "lstm"), backend.asarray(features_for(captions, "float32"))
    assert everything(model, features, backend.asarray(captions)) == everything(model, features, captions)


@pytest.mark.parametrize("cell", CELLS)
def test_strided_arrays_are_accepted(backend, cell):
    captions = CAPTIONS["NULL inside"]
    host = features_for(captions, "float32")
    expected_loss, expected = model_of(backend, cell).loss(backend.asarray(host), captions)
    model = model_of(backend, cell)
    for name, value in model.params.items():
        model.params[name] = backend.strided(backend.to_numpy(value))
    strided_captions = np.repeat(captions, 3, axis=1)[:, ::3]
    strided_captions.flags.writeable = False
    loss, grads = model.loss(backend.strided(host), strided_captions)
    model.sample(backend.strided(host), 3)
    assert distance(float(loss), float(expected_loss)) < TOLERANCE["float32"]["forward"]
    for name, gradient in grads.items():
        expected_array = backend.to_numpy(expected[name])
        assert distance(backend.to_numpy(gradient), expected_array) < TOLERANCE["float32"]["gradient"]


@pytest.mark.parametrize("backend", ["numpy", "cpu"], indirect=True)
def test_features_may_be_mapped_from_a_read_only_file(backend, tmp_path):
    captions = CAPTIONS["padded"]
    host = features_for(captions, "float32")
    np.save(tmp_path / "features.npy", host)
    mapped = np.load(tmp_path / "features.npy", mmap_mode="r")
    model = model_of(backend, "lstm")
    assert everything(model, mapped, captions) == everything(model, host, captions)


@pytest.mark.parametrize("name", ["W_embed", "W_proj", "b_proj", "Wx", "Wh", "b", "W_vocab", "b_vocab"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_a_nan_parameter_gives_a_nan_loss(backend, cell, dtype, name):
    captions = CAPTIONS["padded"]
    model = model_of(backend, cell, dtype)
    broken = backend.to_numpy(model.params[name])
    broken[1 if name == "W_embed" else ...] = np.nan
    model.params[name] = backend.asarray(broken)
    loss, _ = model.loss(backend.asarray(features_for(captions, dtype)), captions)
    assert np.isnan(float(loss))


@pytest.mark.parametrize("cell", CELLS)
def test_weights_of_ten_thousand_give_a_finite_loss_and_gradients(backend, cell):
    captions = CAPTIONS["padded"]
    model = model_of(backend, cell)
    for name, value in parameters(cell, dtype="float32").items():
        model.params[name] = backend.asarray(1e4 * value)
    loss, grads = model.loss(backend.asarray(features_for(captions, "float32")), captions)
    assert np.isfinite(float(loss))
    assert all(np.isfinite(backend.to_numpy(gradient)).all() for gradient in grads.values())


@pytest.mark.parametrize("cell", CELLS)
def test_device_results_do_not_depend_on_the_order_of_threads(standin, cell):
    capgpu.set_backend("cuda")
    captions = CAPTIONS["NULL inside"]
    model = capgpu.CaptioningRNN(WORDS, **SIZES, cell_type=cell, seed=0, **DROPOUT)
    standin.reset_counters()
    everything(model, capgpu.asarray(features_for(captions, "float32")), captions)
    assert standin.counters().nondeterministic == []


def test_the_setting_reference_uses_the_reference_kernels(monkeypatch):
    captions = CAPTIONS["padded"]
    features = features_for(captions, "float32")
    results = {}
    for setting in ("numpy", "cpu"):
        with capgpu.use_backend(setting):
            monkeypatch.setenv("CAPGPU_KERNELS", "reference")
            results[setting] = everything(capgpu.CaptioningRNN(WORDS, **SIZES, seed=0), features, captions)
    assert results["numpy"] == results["cpu"]
