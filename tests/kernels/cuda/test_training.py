"""The training step on the device: its launches, its one copy, no waiting, no new memory, and the words it learns."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import capgpu
from bench.cuda import ours
from bench.cuda.parts import extents
from bench.workloads import SIZES, make_workload
from capgpu.data import emoji
from capgpu.kernels.cells import CELLS
from capgpu.kernels.cuda.array_checks import DeviceMemoryError
from capgpu.kernels.cuda.device_calls import counting
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.solver import CaptioningSolver
from capgpu.validation import checked_data
from oracles.device_memory import little_memory
from oracles.halves import ALL, HALVES
from oracles.numbers import TOLERANCE, distance, numeric_gradient
from oracles.snapshots import frozen
from simulators import cupy_standin
from simulators.cupy_standin.state import STATE

#: Of a training step: an LSTM's loss and gradients, then Adam.
LAUNCHES = [
    *("copy", "matmul", "gather_rows", "matmul", "lstm_forward"),
    *("matmul", "softmax_registers", "matmul", "matmul", "sum_losses"),
    *("lstm_backward", "matmul", "segment_sums", "matmul", "matmul", "scatter_rows", "matmul"),
    *("column_sums", "column_sums", "adam"),
]
#: The command's default options, and what may be asked for besides.
DROPOUT = {"feature_dropout": 0.3, "output_dropout": 0.3}
OPTIONS = {
    "plain": {},
    "dropout": DROPOUT,
    "smoothing": {"label_smoothing": 0.1},
    "both": {**DROPOUT, "label_smoothing": 0.1},
}
CAPTIONS = np.array(
    [[1, 4, 5, 6, 2, 0], [1, 7, 2, 0, 0, 0], [1, 5, 0, 6, 4, 2], [0, 0, 0, 0, 0, 0], [1, 2, 0, 0, 0, 0]]
)


def captioner(V=9, D=7, W=5, H=6, cell="lstm", dtype="float64", **options):
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{k}": k for k in range(3, V)}}
    return CaptioningRNN(words, D, W, H, cell, dtype, seed=3, **options)


def batch(V, N, T, D, dtype, seed=0):
    random = np.random.default_rng(seed)
    captions = random.integers(1, V, (N, T + 1))
    captions[np.arange(T + 1) > random.integers(2, T + 1, (N, 1))] = 0
    captions[:, 0] = 1  # START
    return random.standard_normal((N, D)).astype(dtype), captions


@pytest.fixture
def nothing_computed(request, real_device, monkeypatch):
    """Launches of the emulator are made and checked, and compute nothing: for shapes too large for it."""
    if not real_device:
        monkeypatch.setattr(type(request.getfixturevalue("emulator")), "_run", lambda *args: None)


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_clipping_takes_two_more_launches_and_no_synchronization(device, cell, dtype):
    model = captioner(cell=cell, dtype=dtype)
    optimizer = Optimizer("adam", {"learning_rate": 1e-3}, model.params)
    features = device.ones((5, 7), dtype)
    with counting() as launches, cupy_standin.forbid_synchronisation(), checked_data():
        _, grads = model.loss(features, CAPTIONS)
        optimizer.step(model.params, grads, clip_norm=1.0)
    assert launches[-3:] == ["square_sums", "root_of_sum", "adam"]
    assert len(launches) <= 24


def expected(cell, options, tied=False):
    """List the launches of a step with some options."""
    launches = [name.replace("lstm", cell) for name in LAUNCHES]
    if tied:
        launches[launches.index("scatter_rows")] = "add_rows"
    if "feature_dropout" in options:
        launches.insert(1, "dropout")
        launches.insert(launches.index(f"{cell}_forward") + 1, "dropout")
        launches.insert(launches.index("sum_losses"), "dropout")
    return launches


@pytest.mark.nightly(
    unless=lambda p: (p.size == "S1" and (p.cell != "gru" or not p.tied)) or (p.cell, p.tied) == ("lstm", False)
)
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("size", "dtype"), [("S1", "float32"), ("S3", "float32"), ("S1", "float16")])
def test_a_step_at_full_size_takes_no_more_than_24_launches(
    device, real_device, nothing_computed, dtype, size, cell, tied, capsys
):
    sizes = dataclasses.replace(SIZES[size], W=SIZES[size].H) if tied else SIZES[size]
    work = make_workload(sizes, cell)
    features = device.asarray(work.features.astype(dtype))
    for name, options in OPTIONS.items():
        model = captioner(sizes.V, sizes.D, sizes.W, sizes.H, cell, dtype, tie_weights=tied, **options)
        optimizer = Optimizer("adam", {"learning_rate": 1e-3}, model.params)
        cupy_standin.reset_counters()
        with counting() as launches, cupy_standin.forbid_synchronisation(), checked_data():
            _, grads = model.loss(features, work.captions, dropout_key=7)
            optimizer.step(model.params, grads)
        with capsys.disabled():
            print(f"\n{cell}, {dtype}, {size}, {name}{', tied' * tied}: {len(launches)} launches and copies")
        # tensor cores multiply where the device has them
        launches = [launch.removesuffix("_tensor").removesuffix("_split") for launch in launches]
        assert launches == expected(cell, options, tied)
        if not tied:
            parts = ours.step(extents(work), dropout="feature_dropout" in options)
            assert launches == [part.kernel for part in parts for _ in range(part.launches)]
        assert len(launches) <= 24
        # a device counts no copies but those that launchers note
        assert real_device or cupy_standin.counters().host_to_device_copies == 1


@pytest.mark.nightly(unless=lambda p: p.options in ({}, OPTIONS["both"]) and (p.dtype == "float32" or p.cell == "rnn"))
@pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS.keys())
@pytest.mark.parametrize(("W", "H", "V"), [(5, 5, 9), (8, 8, 12), (33, 33, 601)], ids=str)
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_loss_and_gradients_agree_with_the_reference(device, cell, dtype, W, H, V, options, tied):
    features, captions = batch(V, 7, 9, 11, dtype)
    captions[3] = 0
    results = {}
    for name, kind in (("numpy", "float64"), ("cuda", dtype)):
        with capgpu.use_backend(name):
            model = captioner(V, 11, W, H, cell, kind, tie_weights=tied, **options)
            params = {key: capgpu.to_numpy(value).astype(dtype) for key, value in model.params.items()}
            model.params = {key: capgpu.asarray(value.astype(kind)) for key, value in params.items()}
            with counting() as launches:
                results[name] = model.loss(capgpu.asarray(features.astype(kind)), captions, dropout_key=3)
        assert list(results[name][1]) == list(model.params)
    # the whole pass, and not its composition
    assert launches.count("copy") == 1
    assert distance(results["cuda"][0].get(), results["numpy"][0]) < TOLERANCE[dtype]["forward"]
    for key, gradient in results["cuda"][1].items():
        assert gradient.flags.c_contiguous, key
        assert distance(gradient.get(), results["numpy"][1][key]) < TOLERANCE[dtype]["gradient"], key


@pytest.mark.nightly(unless=lambda p: p.cell == "rnn")
@pytest.mark.parametrize("options", [{}, {**OPTIONS["both"], "tie_weights": True}], ids=["plain", "all"])
@pytest.mark.parametrize("cell", CELLS)
def test_gradients_agree_with_differences_of_the_loss(device, cell, options):
    model = captioner(W=3, H=3, cell=cell, **options)
    features = device.asarray(np.random.default_rng(0).standard_normal((5, 7)))
    model.params["W_embed"] = 50 * model.params["W_embed"]  # other gradients are proportional to it
    _, grads = model.loss(features, CAPTIONS, dropout_key=3)
    for name, dev_features in model.params.items():

        def loss(shifted_params, name=name):
            model.params[name] = device.asarray(shifted_params)
            return float(model.loss(features, CAPTIONS, dropout_key=3)[0])

        expected = numeric_gradient(loss, dev_features.get())
        model.params[name] = dev_features
        assert distance(grads[name].get(), expected) < 1e-6, name


@pytest.mark.parametrize("options", [{}, {**OPTIONS["both"], "tie_weights": True}], ids=["plain", "all"])
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_steps_overwrite_neither_earlier_results_nor_arguments(device, cell, options):
    model, features = captioner(W=6, cell=cell, **options), device.ones((5, 7))
    arguments_snapshot = frozen((model.params, features))
    first = model.loss(features, CAPTIONS, dropout_key=1)
    first_snapshot = frozen(first)
    model.loss(device.zeros((5, 7)), CAPTIONS[::-1], dropout_key=2)
    assert frozen(first) == first_snapshot
    assert frozen((model.params, features)) == arguments_snapshot


@pytest.mark.parametrize("dtype", ALL)
def test_the_layout_of_the_captions_is_copied_once(standin, device, dtype):
    model, features = captioner(dtype=dtype), device.ones((5, 7), dtype)
    standin.reset_counters()
    with checked_data():
        model.loss(features, CAPTIONS)
    assert standin.counters().host_to_device_copies == 1


@pytest.mark.parametrize(
    ("rule", "dtype"),
    [("adam", "float32"), ("sgd_momentum", "float32"), ("sgd", "float32"), ("adam", "float16"), ("sgd", "float16")],
)
@pytest.mark.parametrize("options", [{}, {**OPTIONS["both"], "tie_weights": True}], ids=["plain", "all"])
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_solvers_step_neither_synchronizes_nor_allocates(device, cell, rule, options, dtype):
    steps, pool_bytes = 12, []

    class Watched(CaptioningRNN):
        def loss(self, *args, **kwargs):
            pool_bytes.append(device.get_default_memory_pool().total_bytes())
            if len(pool_bytes) == 2:
                STATE.forbidding += 1
            result = super().loss(*args, **kwargs)
            if len(pool_bytes) == steps:
                STATE.forbidding -= 1
            return result

    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{k}": k for k in range(3, 19)}}
    model = Watched(words, 7, 6, 6, cell, dtype, seed=0, **options)
    features, captions = batch(19, 4 * steps, 6, 7, "float32")
    data = {
        "train_captions": captions,
        "train_features": features,
        "train_image_idxs": np.arange(4 * steps),
        "word_to_idx": words,
    }
    solver = CaptioningSolver(model, data, rule, batch_size=4, num_epochs=1, print_every=10_000, verbose=False, seed=1)
    solver.train()
    assert len(pool_bytes) == steps
    assert len(solver.loss_history) == steps
    assert np.isfinite(solver.loss_history).all()
    # batches differ in size: now and then the pool has no block that fits
    assert pool_bytes[-1] <= 1.01 * pool_bytes[1]


@pytest.mark.nightly(unless=lambda p: p.free > 0)
@pytest.mark.parametrize(("free", "placed"), [(0, ()), (4000, ("train",)), (10**9, ("train", "val"))])
def test_features_that_fit_are_copied_once_and_only_indices_go_to_the_device_after_that(
    device, real_device, monkeypatch, free, placed
):
    data = {"word_to_idx": {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{k}": k for k in range(3, 19)}}}
    for split, count in (("train", 50), ("val", 17)):
        _, data[f"{split}_captions"] = batch(19, count, 6, 7, "float32")
        data[f"{split}_features"], _ = batch(19, 10, 6, 48, "float32", seed=count)
        data[f"{split}_image_idxs"] = np.arange(count) % 10
    epochs, rows, length = 2, {"train": 50, "val": 17}, 4 * 48

    def run(free):
        monkeypatch.setattr("capgpu.data.device_cache.free_device_memory", lambda: free)
        model = CaptioningRNN(data["word_to_idx"], 48, 5, 6, "lstm", "float32", seed=0)
        trainer = CaptioningSolver(model, data, "adam", batch_size=10, num_epochs=epochs, verbose=False, seed=1)
        cupy_standin.reset_counters()
        trainer.train()
        counts = cupy_standin.counters()
        bits = frozen(model.params), trainer.loss_history, trainer.val_loss_history
        return bits, counts.host_to_device_copies, counts.host_to_device_bytes

    bits, copies, moved = run(None)  # as on a host: nothing is placed
    placed_bits, placed_copies, placed_moved = run(free)
    assert placed_bits == bits
    if real_device:  # which counts no copies
        return
    # in the place of a copy of rows for each minibatch, one of all indices for an epoch (of validation: for each time)
    batches = {"train": 5, "val": 2}
    assert placed_copies == copies + sum(1 + epochs * (1 - batches[split]) for split in placed)
    # each placed split goes over once, and then 8 bytes a caption in the place of its row
    assert placed_moved == moved + sum(10 * length + epochs * rows[split] * (8 - length) for split in placed)


def test_losses_of_many_steps_share_their_memory(device):
    model, features = captioner(), device.ones((5, 7))
    losses = [model.loss(features, CAPTIONS)[0] for _ in range(4)]
    assert len({loss.data.mem.ptr for loss in losses}) == 1
    assert len({loss.data.ptr for loss in losses}) == 4
    assert len({float(loss) for loss in losses}) == 1


def emoji_subset():
    full, n_captions = emoji.load(), 60
    data = {name: full[name] for name in ("word_to_idx", "idx_to_word")}
    data["train_captions"] = full["train_captions"][:n_captions]
    data["train_image_idxs"] = np.arange(n_captions)
    data["train_features"] = full["train_features"][full["train_image_idxs"][:n_captions]]
    return data


def trained(data, cell, dtype, rule="adam", learning_rate=2e-2):
    model = CaptioningRNN(data["word_to_idx"], data["train_features"].shape[1], 9, 14, cell, dtype, seed=0)
    solver = CaptioningSolver(
        model,
        data,
        rule,
        {"learning_rate": learning_rate},
        batch_size=10,
        num_epochs=4,
        print_every=4,
        verbose=False,
        seed=0,
        clip_norm=5.0,
    )
    solver.train()
    return model, solver


#: At every run each dtype once.
SHORT = [("rnn", "float16", "adam"), ("rnn", "bfloat16", "rmsprop")]


@pytest.mark.nightly(unless=lambda p: (p.cell, p.dtype, p.rule) in SHORT)
@pytest.mark.parametrize(("rule", "rate"), [("adam", 2e-2), ("rmsprop", 1e-2), ("sgd_momentum", 0.05)])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_short_training_in_half_precision_learns_what_float32_does(device, cell, dtype, rule, rate):
    data = emoji_subset()
    expected = np.array(trained(data, cell, "float32", rule, rate)[1].loss_history)
    model, solver = trained(data, cell, dtype, rule, rate)
    assert {str(value.dtype) for value in model.params.values()} == {dtype}
    assert expected[-1] < 0.8 * expected[0]
    assert distance(solver.loss_history, expected) < 0.05
    words = model.sample(device.asarray(data["train_features"][:5]), 6, stop_at_end=True)
    assert words.shape == (5, 6)


@pytest.mark.nightly(unless=lambda p: (p.cell, p.dtype) in (("lstm", "float32"), ("rnn", "float64")))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_short_training_agrees_with_numpy(cupy, cell, dtype):
    data = emoji_subset()
    ends = {}
    for backend in ("numpy", "cuda"):
        capgpu.set_backend(backend)
        model, solver = trained(data, cell, dtype)
        words = model.sample(capgpu.asarray(data["train_features"][:5].astype(dtype)), 6, stop_at_end=True)
        ends[backend] = (
            np.array(solver.loss_history),
            {name: capgpu.to_numpy(value) for name, value in model.params.items()},
            capgpu.to_numpy(words),
        )
    expected, actual = ends["numpy"], ends["cuda"]
    tolerance = TOLERANCE[dtype]["gradient"]
    assert expected[0][-1] < 0.8 * expected[0][0]
    assert distance(actual[0], expected[0]) < tolerance
    for name, value in expected[1].items():
        assert distance(actual[1][name], value) < 100 * tolerance, name  # of 24 steps, whose signs Adam makes large
    assert (actual[2] == expected[2]).all()


# --- bad input and faults -----------------------------------------------------------------------------------


@pytest.mark.parametrize("bad", [-1, 9, 2**31 + 4, 2**40])
def test_an_id_out_of_range_is_refused_before_anything_is_launched(device, bad):
    model, features = captioner(), device.ones((5, 7))
    captions = CAPTIONS.astype(np.int64)
    captions[2, 3] = bad
    with counting() as launches, pytest.raises(ValueError, match=rf"captions\[2, 3\]: .* got {bad}"):
        model.loss(features, captions)
    assert launches == []


def test_nonfinite_features_are_refused_unless_checked_and_then_make_the_loss_nan(device):
    model, features = captioner(), device.ones((5, 7))
    features[2, 3] = np.nan
    with pytest.raises(
        ValueError, match=r"features: expected finite values, got 1 NaN or infinite value, the first at \(2, 3\)"
    ):
        model.loss(features, CAPTIONS)
    with checked_data():
        loss, _ = model.loss(features, CAPTIONS)
    assert np.isnan(float(loss))


@pytest.mark.standin
def test_arrays_of_another_device_are_refused_by_name():
    with cupy_standin.installed(device_count=2) as cupy:
        capgpu.set_backend("cuda")
        model = captioner()
        with cupy.cuda.Device(1):
            features = cupy.ones((5, 7))
            other = cupy.ones((7, 6))
        with pytest.raises(ValueError, match=r"features: expected an array on .*0.*, got one on .*1"):
            model.loss(features, CAPTIONS)
        model.params["W_proj"] = other
        with pytest.raises(ValueError, match=r"params\['W_proj'\]: expected an array on .*0.*, got one on .*1"):
            model.loss(cupy.ones((5, 7)), CAPTIONS)


def test_a_batch_too_large_for_the_memory_is_refused_with_its_size_and_a_smaller_one_works(device):
    model = captioner(V=300, H=40)
    rows, captions = batch(300, 400, 12, 7, "float64")
    features = device.asarray(rows)
    snapshot = frozen(model.params)
    model.loss(features[:3], captions[:3])  # what every batch needs, such as cuBLAS' memory, is there
    with little_memory(device, 1_500_000):
        with pytest.raises(DeviceMemoryError, match=r"too little memory for .*: [\d,]+ bytes, .* Use a smaller batch"):
            model.loss(features, captions)
        assert frozen(model.params) == snapshot
        expected = model.loss(features[:3], captions[:3])
    assert frozen(model.loss(features[:3], captions[:3])) == frozen(expected)


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_a_caption_without_words_adds_nothing_to_the_loss_of_others(device, cell):
    model = captioner(cell=cell)
    word = int(CAPTIONS[0, 1])
    captions = np.array([[1, 0, 0, 0], [1, word, 0, 0]])
    loss, _ = model.loss(device.ones((2, 7)), captions)
    alone, _ = model.loss(device.ones((1, 7)), captions[1:])
    assert float(loss) == pytest.approx(float(alone) / 2, rel=1e-12)
    with pytest.raises(ValueError, match="captions: expected at least one word after the first column"):
        model.loss(device.ones((2, 7)), np.zeros((2, 4), dtype=np.int64))
