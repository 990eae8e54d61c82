"""Training steps as CUDA graphs: the bits of steps launch by launch, few launches, memory that stays, fallbacks."""

from __future__ import annotations

import logging
from dataclasses import replace

import numpy as np
import pytest

import capgpu
from capgpu.checks import checked_data
from capgpu.kernels.cuda import cublas as direct
from capgpu.kernels.cuda import graphs, module, tiers
from capgpu.kernels.cuda.pinned import PinnedMemory
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.solver import CaptioningSolver
from capgpu.training.graphs import GraphedSteps, training_steps
from capgpu.training.steps import TrainingSteps
from oracles.halves import ALL
from oracles.numbers import TOLERANCE, distance
from oracles.snapshots import frozen
from standin import cupy_standin
from standin.cupy_standin.driver import Function
from standin.cupy_standin.state import STATE

WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, **{f"w{k}": k for k in range(3, 40)}}
D, W, H, WIDTH = 7, 5, 6, 11


def captioner(cell="lstm", dtype="float32", **options):
    return CaptioningRNN(WORDS, D, W, H, cell, dtype, seed=3, **options)


def batch(seed, count=9, dtype="float32", longest=WIDTH):
    random = np.random.default_rng(seed)
    captions = random.integers(1, len(WORDS), (count, WIDTH + 1))
    captions[np.arange(WIDTH + 1) > random.integers(0, longest + 1, (count, 1))] = 0
    captions[0, :2] = 4  # one word at least
    return random.standard_normal((count, D)).astype(dtype), captions


def trained(device, steps, batches, whole, cell="lstm", dtype="float32", rule="adam", clip_norm=None, **options):
    """Return losses and parameters after each of some steps."""
    model = captioner(cell, dtype, **options)
    optimizer = Optimizer(rule, {"learning_rate": 1e-2}, model.params)
    made = steps(model, optimizer, clip_norm)
    found = []
    for number, (features, captions) in enumerate(batches):
        key = 100 + number if model.feature_dropout or model.output_dropout else None
        loss = made.loss(device.asarray(features), captions, 1.0 / (1 + number), whole=whole, dropout_key=key)
        made.update(1.0 / (1 + number))
        found.append((float(loss), {name: array.get() for name, array in model.params.items()}))
    return found


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize(("rule", "clip_norm"), [("adam", None), ("adam", 0.5), ("sgd_momentum", None), ("sgd", 0.1)])
def test_replayed_steps_have_the_bits_of_halves_launch_by_launch_and_the_values_of_plain_ones(
    device, cell, dtype, rule, clip_norm
):
    batches = [batch(seed, 9 + seed % 2, dtype, WIDTH - seed % 5) for seed in range(8)]
    settings = {"cell": cell, "dtype": dtype, "rule": rule, "clip_norm": clip_norm}
    with module.counting() as launches:
        graphed = trained(device, GraphedSteps, batches, True, **settings)
    assert 3 <= launches.count("graph") < len(batches)
    halves = trained(device, GraphedSteps, batches, False, **settings)
    plain = trained(device, TrainingSteps, batches, True, **settings)
    assert frozen(graphed) == frozen(halves)
    for (loss, params), (plain_loss, plain_params) in zip(graphed, plain, strict=True):
        assert distance(loss, plain_loss) < TOLERANCE[dtype]["gradient"]
        for name, array in params.items():
            assert distance(array, plain_params[name]) < min(100 * TOLERANCE[dtype]["gradient"], 0.3), name


@pytest.mark.parametrize(
    "options",
    [
        {"label_smoothing": 0.2},
        {"feature_dropout": 0.4},
        {"output_dropout": 0.4},
        {"feature_dropout": 0.3, "output_dropout": 0.2, "label_smoothing": 0.1},
    ],
    ids=str,
)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_all_options_of_the_loss_are_replayed_and_each_step_has_masks_of_its_own(device, cell, options):
    features, captions = batch(5)
    with module.counting() as launches:
        graphed = trained(device, GraphedSteps, [(features, captions)] * 4, True, cell, **options)
    assert launches.count("graph") == 3
    assert frozen(graphed) == frozen(trained(device, GraphedSteps, [(features, captions)] * 4, False, cell, **options))
    if "label_smoothing" in options and len(options) == 1:
        plain = trained(device, TrainingSteps, [(features, captions)] * 4, True, cell, **options)
        assert distance([loss for loss, _ in graphed], [loss for loss, _ in plain]) < 1e-5


def test_a_mask_is_the_plain_models_where_the_batch_needs_no_padding(device):
    captions = np.full((8, 5), 3)  # 8 captions of 4 steps: 32 rows
    features = batch(0, 8)[0]
    options = {"feature_dropout": 0.3, "output_dropout": 0.3, "label_smoothing": 0.1}
    graphed, plain = (
        trained(device, steps, [(features, captions)] * 3, True, **options) for steps in (GraphedSteps, TrainingSteps)
    )
    for (loss, _), (plain_loss, _) in zip(graphed, plain, strict=True):
        assert distance(loss, plain_loss) < 1e-5


def test_tied_weights_are_replayed(device):
    batches = [batch(1), batch(1), batch(2), batch(1)]

    def run(steps, whole):
        model = CaptioningRNN(WORDS, D, H, H, "lstm", "float32", seed=3, tie_weights=True)
        made = steps(model, Optimizer("adamw", {}, model.params), 1.0)
        losses = []
        for features, captions in batches:
            losses.append(float(made.loss(device.asarray(features), captions, 1.0, whole=whole)))
            made.update(1.0)
        return losses, {name: array.get() for name, array in model.params.items()}

    graphed, halves, plain = run(GraphedSteps, True), run(GraphedSteps, False), run(TrainingSteps, True)
    assert frozen(graphed) == frozen(halves)
    assert distance(graphed[0], plain[0]) < 1e-5


def test_a_replayed_step_is_one_launch_and_three_copies_and_waits_for_nothing(device, real_device):
    model = captioner(feature_dropout=0.3, output_dropout=0.2, label_smoothing=0.1)
    steps = GraphedSteps(model, Optimizer("adam", {}, model.params), 1.0)
    features, captions = batch(0)
    there = device.asarray(features)
    steps.loss(there, captions, 1.0, whole=True, dropout_key=1)
    cupy_standin.reset_counters()
    with module.counting() as launches, cupy_standin.forbid_synchronisation(), checked_data():
        steps.loss(there, captions, 1.0, whole=True, dropout_key=2)
        steps.update(1.0)
    assert launches == ["copy", "copy", "graph", "copy"]
    assert real_device or cupy_standin.counters().host_to_device_copies == 1
    assert cupy_standin.counters().allocations == 0


def test_a_graph_keeps_its_memory_where_larger_batches_take_the_workspace_anew(device):
    model = captioner()
    steps = GraphedSteps(model, Optimizer("sgd", {"learning_rate": 1e-9}, model.params), 1.0)
    small, large = batch(0), batch(1, 90)
    first = [float(steps.loss(device.asarray(small[0]), small[1], 1.0, whole=True)) for _ in range(2)]
    space = steps._graphs._space
    before = {memory.data.ptr for memory in space.memory()}
    steps.loss(device.asarray(large[0]), large[1], 1.0, whole=True)
    assert len(before - {memory.data.ptr for memory in space.memory()}) > 8  # which only the graph needs now
    with module.counting() as launches:
        again = float(steps.loss(device.asarray(small[0]), small[1], 1.0, whole=True))
    assert launches.count("graph") == 1
    assert distance(again, first[0]) < 1e-5


def test_few_shapes_are_kept_and_those_that_were_not_used_go(device, monkeypatch):
    monkeypatch.setattr(graphs, "MOST_GRAPHS", 2)
    model = captioner()
    steps = GraphedSteps(model, Optimizer("adam", {}, model.params), None)
    counts = []
    for count in (5, 6, 5, 7, 5, 6):
        features, captions = batch(0, count)
        with module.counting() as launches:
            steps.loss(device.asarray(features), captions, 1.0, whole=True)
        counts.append(launches.count("graph"))
    assert counts == [0, 0, 1, 0, 1, 0]


def test_parameters_and_state_that_somebody_replaces_are_taken_over(device):
    features, captions = batch(0)
    ends = []
    for whole in (True, False):
        model = captioner()
        optimizer = Optimizer("adam", {"learning_rate": 1e-2}, model.params)
        steps = GraphedSteps(model, optimizer, None)
        for number in range(4):
            if number == 2:
                model.params["b_vocab"] = device.full(len(WORDS), 0.5, "float32")
                optimizer.load_state_dict(optimizer.state_dict())
            steps.loss(device.asarray(features), captions, 1.0, whole=whole)
            steps.update(1.0)
        ends.append(frozen((model.params, optimizer.state_dict())))
        assert optimizer.configs["Wh"]["t"] == 4
    assert ends[0] == ends[1]
    model.params["b_vocab"] = device.full(len(WORDS), 0.25, "float32")
    given = model.params["b_vocab"]
    steps.loss(device.asarray(features), captions, 1.0, whole=True)
    assert (given.get() == 0.25).all()  # the caller's array is not written into


# --- fallbacks ----------------------------------------------------------------------------------------------


def test_where_capturing_fails_steps_are_plain_ones_after_one_warning(device, monkeypatch):
    monkeypatch.setattr(direct, "_open", lambda: (_ for _ in ()).throw(OSError("no cuBLAS here")))
    direct.forget()  # CuPy makes the products, and raises while a stream captures
    batches = [batch(seed) for seed in range(4)]
    with (
        module.counting() as launches,
        pytest.warns(RuntimeWarning, match="cannot be captured in a CUDA graph") as told,
    ):
        graphed = trained(device, GraphedSteps, batches, True)
    assert len(told) == 1
    assert "graph" not in launches
    plain = trained(device, TrainingSteps, batches, True)
    assert distance([loss for loss, _ in graphed], [loss for loss, _ in plain]) < 1e-5


def test_memory_that_is_asked_for_while_launches_are_captured_ends_the_capture(device):
    stream = device.cuda.Stream(non_blocking=True)
    with pytest.raises(graphs.CaptureError, match="4,096 bytes were asked for"), graphs._capturing(stream):
        device.empty(4096, "uint8")
    assert not stream.is_capturing()
    assert device.ones(3).sum().get() == 3


def test_a_cooperative_launch_that_only_a_graph_refuses_stays_in_use(device, emulator, monkeypatch):
    class RefusedError(RuntimeError):
        status = 801  # CUDA_ERROR_NOT_SUPPORTED

    checked = Function.check_launch

    def check_launch(self, grid, block, shared, cooperative):
        if cooperative and STATE.capture is not None:
            raise RefusedError("CUDA_ERROR_NOT_SUPPORTED: operation not supported")
        checked(self, grid, block, shared, cooperative)

    monkeypatch.setattr(Function, "check_launch", check_launch)
    with pytest.warns(RuntimeWarning, match=r"cannot be captured in a CUDA graph \(CUDA_ERROR_NOT_SUPPORTED"):
        trained(device, GraphedSteps, [batch(0)] * 2, True)
    assert module.device_limits().cooperative


def test_recurrences_that_are_launched_step_by_step_are_not_captured(device, monkeypatch):
    monkeypatch.setitem(module._limits, 0, replace(module.device_limits(), cooperative=False))
    tiers.forget()
    with module.counting() as launches:
        found = trained(device, GraphedSteps, [batch(0)] * 2, True)
    tiers.forget()
    assert {"lstm_forward_step", "adam"} <= set(launches)
    assert "graph" not in launches
    assert found[1][0] != found[0][0]


def test_bad_batches_are_refused_as_ever_and_change_nothing(device):
    model = captioner()
    optimizer = Optimizer("adam", {}, model.params)
    steps = GraphedSteps(model, optimizer, None)
    features, captions = batch(0)
    there = device.asarray(features)
    steps.loss(there, captions, 1.0, whole=True)
    before = frozen((model.params, optimizer.state_dict()))
    bad = captions.copy()
    bad[2, 1] = 99
    for whole in (True, False):
        with pytest.raises(ValueError, match=r"captions\[2, 1\] is 99"):
            steps.loss(there, bad, 1.0, whole=whole)
    with pytest.raises(ValueError, match="features has shape"):
        steps.loss(there[:, :3], captions, 1.0, whole=True)
    assert frozen((model.params, optimizer.state_dict())) == before


def test_an_update_without_gradients_is_an_error(device):
    model = captioner()
    steps = graphs.StepGraphs(model.params, "adam", [[], []])
    with pytest.raises(RuntimeError, match=r"expected gradients\(\) before update\(\)"):
        steps.update(np.zeros((8, 8)))


def test_memory_that_a_copy_still_reads_is_not_written_to(device, monkeypatch):
    memory = PinnedMemory()
    there = device.zeros(8, "int32")
    memory.send([(there, np.arange(8, dtype=np.int32))])
    (first,) = memory._pieces
    device.cuda.runtime.deviceSynchronize()  # the copy has ended
    memory.send([(there, np.arange(8, dtype=np.int32) + 1)])
    assert len(memory._pieces) == 1
    assert memory._pieces[0] is first
    monkeypatch.setattr(device.cuda.Event, "done", False)  # from here on no copy ends that anybody hears of
    kept = first[0].copy()
    memory.send([(there, np.arange(8, dtype=np.int32) + 2)])
    assert (there.get() == np.arange(8) + 2).all()
    assert len(memory._pieces) == 2
    assert (first[0] == kept).all()


# --- the solver ---------------------------------------------------------------------------------------------


def data_of(count, seed=0):
    features, captions = batch(seed, count)
    return {
        "train_captions": captions,
        "train_features": features,
        "train_image_idxs": np.arange(count),
        "word_to_idx": WORDS,
    }


def solved(print_every=1000, **options):
    model = captioner(output_dropout=0.2)
    solver = CaptioningSolver(
        model, data_of(60), "adam", {"learning_rate": 1e-2}, batch_size=10, num_epochs=3, print_every=print_every,
        verbose=False, seed=1, clip_norm=2.0, lr_decay=0.9, schedule="cosine", **options,
    )  # fmt: skip
    solver.train()
    return solver


def test_a_solver_replays_its_steps_when_asked_and_has_the_bits_of_one_that_looks_at_every_loss(device, monkeypatch):
    monkeypatch.setenv("CAPGPU_CUDA_GRAPHS", "1")
    with module.counting() as launches:
        graphed = solved()
    assert launches.count("graph") >= 6
    with module.counting() as launches:
        looking = solved(print_every=1)
    assert "graph" not in launches
    assert frozen((graphed.model.params, graphed.loss_history)) == frozen((looking.model.params, looking.loss_history))


def test_a_solver_resumes_with_the_bits_of_a_run_that_never_stopped(device, monkeypatch, tmp_path):
    monkeypatch.setenv("CAPGPU_CUDA_GRAPHS", "1")
    whole = solved()
    part = CaptioningSolver(
        captioner(output_dropout=0.2), data_of(60), "adam", {"learning_rate": 1e-2}, batch_size=10, num_epochs=3,
        print_every=1000, verbose=False, seed=1, clip_norm=2.0, lr_decay=0.9, schedule="cosine", checkpoint=tmp_path,
        callbacks=[lambda solver, record: (_ for _ in ()).throw(KeyError("stop")) if record["epoch"] == 2 else None],
    )  # fmt: skip
    with pytest.raises(KeyError, match="stop"):
        part.train()
    resumed = solved(checkpoint=tmp_path, resume=True)
    assert frozen((whole.model.params, whole.loss_history)) == frozen((resumed.model.params, resumed.loss_history))


def test_a_loss_that_is_not_finite_leaves_the_last_good_parameters(device, monkeypatch):
    monkeypatch.setenv("CAPGPU_CUDA_GRAPHS", "1")
    data = data_of(60)
    model = captioner()
    solver = CaptioningSolver(model, data, "sgd", {"learning_rate": 1e-3}, batch_size=10, verbose=False, seed=1)
    solver.train()
    good = frozen(model.params)
    data["train_features"][:] = np.nan
    with pytest.raises(FloatingPointError, match="the loss of step 61 is nan"):
        solver.train()
    assert frozen(model.params) == good


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: (type("Other", (CaptioningRNN,), {})(WORDS, D, W, H, seed=0), "adam"), "the model is a Other"),
        (lambda: (captioner(), "rmsprop"), "the update rule 'rmsprop' has no kernel"),
    ],
)
def test_what_cannot_be_graphed_is_said_and_trained_as_ever(device, monkeypatch, caplog, make, reason):
    monkeypatch.setenv("CAPGPU_CUDA_GRAPHS", "1")
    model, rule = make()
    with caplog.at_level(logging.INFO, "capgpu"):
        steps = training_steps(model, Optimizer(rule, {}, model.params), None)
    assert type(steps) is TrainingSteps
    assert reason in caplog.text


def test_nobody_gets_graphs_who_does_not_ask_for_them(device, monkeypatch):
    model = captioner()
    optimizer = Optimizer("adam", {}, model.params)
    for setting, kind in (("", TrainingSteps), ("0", TrainingSteps), ("1", GraphedSteps)):
        monkeypatch.setenv("CAPGPU_CUDA_GRAPHS", setting)
        assert type(training_steps(model, optimizer, None)) is kind
    monkeypatch.setenv("CAPGPU_CUDA_GRAPHS", "yes")
    with pytest.raises(ValueError, match="CAPGPU_CUDA_GRAPHS: expected 1 or 0, got 'yes'"):
        training_steps(model, optimizer, None)


def test_host_parameters_are_never_graphed(monkeypatch, caplog):
    capgpu.set_backend("numpy")
    monkeypatch.setenv("CAPGPU_CUDA_GRAPHS", "1")
    model = captioner()
    with caplog.at_level(logging.INFO, "capgpu"):
        assert type(training_steps(model, Optimizer("adam", {}, model.params), None)) is TrainingSteps
    assert "served by the reference kernels" in caplog.text
