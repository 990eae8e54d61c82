"""Training steps as CUDA graphs: the bits of steps launch by launch, few launches, memory that stays, fallbacks."""

from __future__ import annotations

import gc
import logging
from dataclasses import replace

import numpy as np
import pytest

import capgpu
from capgpu.captioner import captioner_gradients
from capgpu.kernels.cuda import compile, graphs, launch_heuristics, softmax
from capgpu.kernels.cuda import cublas as direct
from capgpu.kernels.cuda.device_calls import counting
from capgpu.kernels.cuda.pinned import PinnedMemory
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.solver import CaptioningSolver
from capgpu.training.graphs import GraphedSteps, training_steps
from capgpu.training.steps import TrainingSteps
from capgpu.validation import checked_data
from oracles.halves import ALL
from oracles.numbers import TOLERANCE, distance
from oracles.snapshots import frozen
from simulators import cupy_standin
from simulators.cupy_standin.driver import Function
from simulators.cupy_standin.state import STATE

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


#: What is replayed at every run: all rules, and all dtypes with the smaller cell.
REPLAYED = {
    ("lstm", "float32", "adam"),
    ("lstm", "float32", "sgd_momentum"),
    *(("rnn", dtype, "adam") for dtype in ("float16", "bfloat16", "float64")),
}


@pytest.fixture
def one_by_one(monkeypatch):
    """Train by steps that are prepared for graphs, and never captured."""

    def run(*args, **settings):
        with monkeypatch.context() as patch:
            patch.setattr(graphs.StepGraphs, "_capture", lambda self, shape: None)
            return trained(*args, **settings)

    return run


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
        found.append((float(loss), {name: capgpu.to_numpy(array).copy() for name, array in model.params.items()}))
    return found


@pytest.mark.nightly(
    unless=lambda p: (p.cell, p.dtype, p.rule) in REPLAYED and p.clip_norm == (None if p.cell == "lstm" else 0.5)
)
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
@pytest.mark.parametrize(("rule", "clip_norm"), [("adam", None), ("adam", 0.5), ("sgd_momentum", None), ("sgd", 0.1)])
def test_replayed_steps_have_the_bits_of_steps_launch_by_launch_and_the_values_of_plain_ones(
    device, one_by_one, cell, dtype, rule, clip_norm
):
    batches = [batch(seed, 10 - seed % 2, dtype, WIDTH - seed % 5) for seed in range(8)]
    settings = {"cell": cell, "dtype": dtype, "rule": rule, "clip_norm": clip_norm}
    with counting() as launches:
        graphed = trained(device, GraphedSteps, batches, True, **settings)
    assert 2 <= launches.count("graph") / 2 < len(batches)
    halves = trained(device, GraphedSteps, batches, False, **settings)
    assert frozen(graphed) == frozen(halves)
    assert frozen(graphed) == frozen(one_by_one(device, GraphedSteps, batches, False, **settings))
    plain = trained(device, TrainingSteps, batches, True, **settings)
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
@pytest.mark.nightly(unless=lambda p: p.cell == ("rnn" if len(p.options) == 1 else "lstm"))
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_all_options_of_the_loss_are_replayed_with_the_masks_of_plain_steps_and_of_the_host(
    device, one_by_one, cell, options
):
    batches = [batch(5), batch(5), batch(6, longest=4), batch(6, longest=4)]
    with counting() as launches:
        graphed = trained(device, GraphedSteps, batches, True, cell, **options)
    assert launches.count("graph") == 4
    assert frozen(graphed) == frozen(trained(device, GraphedSteps, batches, False, cell, **options))
    assert frozen(graphed) == frozen(one_by_one(device, GraphedSteps, batches, True, cell, **options))
    losses = [loss for loss, _ in graphed]
    plain = trained(device, TrainingSteps, batches, True, cell, **options)
    assert distance(losses, [loss for loss, _ in plain]) < 1e-5
    with capgpu.use_backend("numpy"):
        host = trained(np, TrainingSteps, batches, True, cell, **options)
    assert distance(losses, [loss for loss, _ in host]) < 1e-4
    # one mask for all steps would show
    assert distance([losses[0]], [losses[1]]) > 1e-3


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


def test_a_replayed_step_is_two_launches_and_three_copies_and_waits_for_nothing(device, real_device):
    model = captioner(feature_dropout=0.3, output_dropout=0.2, label_smoothing=0.1)
    steps = GraphedSteps(model, Optimizer("adam", {}, model.params), 1.0)
    features, captions = batch(0)
    there = device.asarray(features)
    steps.loss(there, captions, 1.0, whole=True, dropout_key=1)
    cupy_standin.reset_counters()
    with counting() as launches, cupy_standin.forbid_synchronisation(), checked_data():
        steps.loss(there, captions, 1.0, whole=True, dropout_key=2)
        steps.update(1.0)
    assert launches == ["copy", "copy", "graph", "copy", "graph"]
    assert real_device or cupy_standin.counters().host_to_device_copies == 1
    assert cupy_standin.counters().allocations == 0


def test_graphs_of_memory_that_larger_batches_have_outgrown_are_discarded_with_it_and_made_anew(device, real_device):
    model = captioner()
    steps = GraphedSteps(model, Optimizer("sgd", {"learning_rate": 1e-9}, model.params), 1.0)
    small, large = ((device.asarray(features), captions) for features, captions in (batch(0), batch(1, 90)))
    first = [float(steps.loss(*small, 1.0, whole=True)) for _ in range(2)]
    steps.loss(*large, 1.0, whole=True)
    gc.collect()
    pool = device.get_default_memory_pool()
    grown, replays = pool.used_bytes(), []
    for features, captions in (small, small, large, small, large):
        with counting() as launches:
            loss = float(steps.loss(features, captions, 1.0, whole=True))
        replays.append(launches.count("graph"))
        if captions is small[1]:
            assert distance(loss, first[0]) < 1e-5
    assert replays == [0, 2, 2, 2, 2]
    gc.collect()
    assert real_device or pool.used_bytes() <= grown + 4096  # the losses of a step apart


def held(steps):
    """Return the size in bytes of each array in the graphs' workspace."""
    return {name: buffer.nbytes for name, buffer in steps._graphs._space._buffers.items()}


def test_scores_get_room_for_later_batches_within_their_limit(device, monkeypatch):
    limit = 70 * len(WORDS) * 4
    for module_ in (graphs, softmax):
        monkeypatch.setattr(module_, "SCORE_BYTES", limit)
    model = captioner()
    steps = GraphedSteps(model, Optimizer("sgd", {}, model.params), None)
    features, captions = batch(0, longest=5)
    steps.loss(device.asarray(features), captions, 1.0, whole=True)
    (shape,) = steps._graphs._shapes.values()
    assert shape.batch.targets.size <= 70 < features.shape[0] * WIDTH
    assert held(steps)["scores"] == limit


def test_gradients_of_parameters_with_as_many_rows_as_a_batch_get_no_room_for_its_rows(device):
    model = CaptioningRNN(WORDS, D, W, 32, "lstm", "float32", seed=3)
    steps = GraphedSteps(model, Optimizer("sgd", {}, model.params), None)
    features, captions = batch(0, longest=3)
    steps.loss(device.asarray(features), captions, 1.0, whole=True)
    (shape,) = steps._graphs._shapes.values()
    assert 32 in (shape.batch.targets.size, shape.batch.words.size)
    assert held(steps)["the gradient of W (1)"] == model.params["W_vocab"].nbytes


def test_few_shapes_are_kept_and_those_that_were_not_used_go(device, monkeypatch):
    monkeypatch.setattr(graphs, "MAX_GRAPHS", 2)
    model = captioner()
    steps = GraphedSteps(model, Optimizer("adam", {}, model.params), None)
    counts = []
    for count in (7, 6, 7, 5, 7, 6):
        features, captions = batch(0, count)
        with counting() as launches:
            steps.loss(device.asarray(features), captions, 1.0, whole=True)
        counts.append(launches.count("graph"))
    assert counts == [0, 0, 2, 0, 2, 0]


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


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_parameters_are_found_by_name_whatever_their_order(device, cell, step):
    features, captions = batch(0)
    ends = []
    for changed in (False, True):
        model = captioner(cell)
        optimizer = Optimizer("adam", {"learning_rate": 1e-2}, model.params)
        steps = GraphedSteps(model, optimizer, None)
        for number in range(4):
            if changed and number == step:
                # in an RNN, b_proj and b have one shape: exchanged, nothing would stop
                names = [*model.params]
                names[2], names[5] = names[5], names[2]
                model.params = {name: model.params[name] for name in reversed(names)}
            steps.loss(device.asarray(features), captions, 1.0, whole=True)
            steps.update(1.0)
        ends.append(frozen([(model.params[name], optimizer.configs[name]) for name in sorted(model.params)]))
    assert ends[0] == ends[1]


def test_parameters_that_are_exchanged_have_each_other_s_values(device):
    model = captioner("rnn")
    steps = GraphedSteps(model, Optimizer("sgd", {"learning_rate": 1e-9}, model.params), None)
    features, captions = batch(0)
    params = model.params
    params["b"], params["b_proj"] = device.full(H, 1, "float32"), device.full(H, 2, "float32")
    for _ in range(2):
        steps.loss(device.asarray(features), captions, 1.0, whole=True)
        params["b"], params["b_proj"] = params["b_proj"], params["b"]
    steps.loss(device.asarray(features), captions, 1.0, whole=True)
    assert distance(params["b"].get(), np.full(H, 1)) < 1e-5
    assert distance(params["b_proj"].get(), np.full(H, 2)) < 1e-5


def test_a_parameter_too_many_is_refused_as_by_a_plain_step(device):
    features, captions = batch(0)
    for before in (0, 2):
        model = captioner()
        steps = GraphedSteps(model, Optimizer("sgd", {}, model.params), None)
        for _ in range(before):
            steps.loss(device.asarray(features), captions, 1.0, whole=True)
            steps.update(1.0)
        model.params["scale"] = device.ones(3, "float32")
        steps.loss(device.asarray(features), captions, 1.0, whole=True)
        with pytest.raises(ValueError, match="grads has no entry 'scale'"):
            steps.update(1.0)


def test_a_model_that_has_been_moved_to_the_host_is_trained_there(device):
    model = captioner()
    steps = GraphedSteps(model, Optimizer("sgd", {"learning_rate": 1e-2}, model.params), None)
    features, captions = batch(0)
    first = float(steps.loss(device.asarray(features), captions, 1.0, whole=True))
    steps.update(1.0)
    with capgpu.use_backend("numpy"):
        model.params = {name: capgpu.to_numpy(array) for name, array in model.params.items()}
        second = float(steps.loss(features, captions, 1.0, whole=True))
        steps.update(1.0)
        assert all(type(array) is np.ndarray for array in model.params.values())
        third = float(steps.loss(features, captions, 1.0, whole=True))
    assert first > second > third


# --- fallbacks ----------------------------------------------------------------------------------------------


def test_where_capturing_fails_steps_are_launched_one_by_one_after_one_warning_with_the_same_bits(
    device, one_by_one, monkeypatch
):
    monkeypatch.setattr(direct, "_open", lambda: (_ for _ in ()).throw(OSError("no cuBLAS here")))
    direct.forget()  # CuPy computes the products, and raises while a stream captures
    batches = [batch(seed) for seed in range(4)]
    with (
        counting() as launches,
        pytest.warns(RuntimeWarning, match="cannot be captured in a CUDA graph") as told,
    ):
        graphed = trained(device, GraphedSteps, batches, True)
    assert len(told) == 1
    assert "graph" not in launches
    assert frozen(graphed) == frozen(one_by_one(device, GraphedSteps, batches, True))


def test_memory_that_is_asked_for_while_launches_are_captured_ends_the_capture(device):
    stream = device.cuda.Stream(non_blocking=True)
    with pytest.raises(graphs.CaptureError, match="4,096 bytes were requested"), graphs._capturing(stream):
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
    assert compile.device_limits().cooperative


def test_a_refusal_between_two_batches_of_a_shape_without_an_update_is_no_matter(device, emulator, monkeypatch):
    class RefusedError(RuntimeError):
        status = 801  # CUDA_ERROR_NOT_SUPPORTED

    def check_launch(self, grid, block, shared, cooperative):
        if cooperative:
            raise RefusedError("CUDA_ERROR_NOT_SUPPORTED: operation not supported")

    features, captions = batch(0)
    first, second = np.zeros_like(captions), np.zeros_like(captions)
    for given, steps in ((first, [8, 2, 2, 2, 2, 2, 2, 2, 2]), (second, [8, 8, 8, 1, 1, 1, 1, 1, 1])):
        given[np.arange(WIDTH + 1) <= np.array(steps)[:, None]] = 5
    model = captioner()
    wanted = float(
        TrainingSteps(model, Optimizer("sgd", {}, model.params), None).loss(device.asarray(features), second, 1)
    )
    steps = GraphedSteps(model, Optimizer("sgd", {}, model.params), None)
    steps.loss(device.asarray(features), first, 1.0)
    monkeypatch.setattr(Function, "check_launch", check_launch)
    with pytest.warns(RuntimeWarning, match="the driver refuses a cooperative launch"):
        found = float(steps.loss(device.asarray(features), second, 1.0))
    launch_heuristics.forget()
    assert distance(found, wanted) < 1e-5


def test_recurrences_that_are_launched_step_by_step_are_not_captured(device, monkeypatch):
    monkeypatch.setitem(compile._limits, 0, replace(compile.device_limits(), cooperative=False))
    launch_heuristics.forget()
    with counting() as launches:
        found = trained(device, GraphedSteps, [batch(0)] * 2, True)
    launch_heuristics.forget()
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
        with pytest.raises(ValueError, match=r"captions\[2, 1\]: .*, got 99"):
            steps.loss(there, bad, 1.0, whole=whole)
    with pytest.raises(ValueError, match="features: expected shape"):
        steps.loss(there[:, :3], captions, 1.0, whole=True)
    assert frozen((model.params, optimizer.state_dict())) == before


def test_an_update_without_gradients_is_an_error(device):
    model = captioner()
    steps = graphs.StepGraphs(captioner_gradients, model.params, "adam", [[], []])
    with pytest.raises(RuntimeError, match=r"expected gradients\(\) before update\(\)"):
        steps.update(np.zeros((8, 8)))


def test_memory_that_a_copy_still_reads_is_not_written_to(device, monkeypatch):
    memory = PinnedMemory()
    there = device.zeros(8, "int32")
    memory.send([(there, np.arange(8, dtype=np.int32))])
    (first,) = memory._buffers
    device.cuda.runtime.deviceSynchronize()  # the copy has ended
    memory.send([(there, np.arange(8, dtype=np.int32) + 1)])
    assert len(memory._buffers) == 1
    assert memory._buffers[0] is first
    monkeypatch.setattr(device.cuda.Event, "done", False)  # from here on no copy ends that anybody hears of
    kept = first[0].copy()
    memory.send([(there, np.arange(8, dtype=np.int32) + 2)])
    assert (there.get() == np.arange(8) + 2).all()
    assert len(memory._buffers) == 2
    assert (first[0] == kept).all()


def test_the_collector_of_cycles_destroys_no_event_that_is_still_asked(device):
    asked = []

    class Event:  # as CuPy's, it is destroyed in __del__, which the collector calls in any order
        destroyed = False

        @property
        def done(self):
            asked.append(self.destroyed)
            return True

        def __del__(self):
            self.destroyed = True

    cycle = [Event()]
    cycle.append(cycle)
    memory = PinnedMemory()
    memory._buffers.append((np.empty(1, np.uint8), None, cycle[0]))
    cycle.append(memory)
    memory.cycle = cycle
    del memory, cycle
    gc.collect()
    assert asked == [False]


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


def test_a_solver_replays_its_steps_and_has_the_bits_of_one_that_looks_at_every_loss(device):
    for print_every in (1000, 1):
        with counting() as launches:
            solver = solved(print_every=print_every)
        assert launches.count("graph") >= 12
        if print_every == 1000:
            graphed = solver
    looking = solver
    assert frozen((graphed.model.params, graphed.loss_history)) == frozen((looking.model.params, looking.loss_history))


@pytest.mark.parametrize("graphed", [True, False], ids=["graphed", "plain"])
def test_a_solver_s_losses_are_those_of_the_host(device, monkeypatch, graphed):
    monkeypatch.setenv("CAPGPU_CUDA_GRAPHS", str(int(graphed)))
    with counting() as launches:
        losses = solved().loss_history
    assert ("graph" in launches) == graphed
    with capgpu.use_backend("numpy"):
        assert distance(losses, solved().loss_history) < 1e-4


def test_a_solver_resumes_with_the_bits_of_a_run_that_never_stopped(device, tmp_path):
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


def test_a_loss_that_is_not_finite_leaves_the_last_good_parameters(device):
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
def test_what_cannot_be_graphed_is_said_and_trained_as_ever(device, caplog, make, reason):
    model, rule = make()
    with caplog.at_level(logging.INFO, "capgpu"):
        steps = training_steps(model, Optimizer(rule, {}, model.params), None)
    assert type(steps) is TrainingSteps
    assert reason in caplog.text


def test_everybody_gets_graphs_who_does_not_forbid_them(device, monkeypatch):
    model = captioner()
    optimizer = Optimizer("adam", {}, model.params)
    monkeypatch.delenv("CAPGPU_CUDA_GRAPHS", raising=False)
    assert type(training_steps(model, optimizer, None)) is GraphedSteps
    for setting, kind in (("", GraphedSteps), ("0", TrainingSteps), ("1", GraphedSteps)):
        monkeypatch.setenv("CAPGPU_CUDA_GRAPHS", setting)
        assert type(training_steps(model, optimizer, None)) is kind
    monkeypatch.setenv("CAPGPU_CUDA_GRAPHS", "yes")
    with pytest.raises(ValueError, match="CAPGPU_CUDA_GRAPHS: expected 1 or 0, got 'yes'"):
        training_steps(model, optimizer, None)


def test_the_reference_kernels_are_never_graphed(device, monkeypatch, caplog):
    monkeypatch.setenv("CAPGPU_KERNELS", "reference")
    model = captioner()
    with caplog.at_level(logging.INFO, "capgpu"):
        assert type(training_steps(model, Optimizer("adam", {}, model.params), None)) is TrainingSteps
    assert "served by the reference kernels" in caplog.text


def test_host_parameters_are_never_graphed_which_is_not_worth_a_word(caplog):
    capgpu.set_backend("numpy")
    model = captioner()
    with caplog.at_level(logging.DEBUG, "capgpu"):
        assert type(training_steps(model, Optimizer("adam", {}, model.params), None)) is TrainingSteps
    assert not caplog.text


def test_two_models_in_one_process_have_graphs_of_their_own(device):
    def run(*seeds):
        """Train models in turn; return the parameters of each."""
        models = [CaptioningRNN(WORDS, D, W, H, "lstm", seed=seed) for seed in seeds]
        steps = [GraphedSteps(model, Optimizer("adam", {}, model.params), None) for model in models]
        for number in range(4):
            for seed, made in zip(seeds, steps, strict=True):
                features, captions = batch(10 * seed + number % 2)
                made.loss(device.asarray(features), captions, 1.0, whole=True)
                made.update(1.0)
        return [frozen(model.params) for model in models]

    assert run(1, 2) == [*run(1), *run(2)]


def test_an_interrupt_while_launches_are_captured_ends_the_capture(device, monkeypatch):
    model = captioner()
    steps = GraphedSteps(model, Optimizer("adam", {}, model.params), None)
    features, captions = batch(0)
    there = device.asarray(features)
    launch = graphs.StepGraphs._launch_update

    def interrupted(self, shape):
        if device.cuda.get_current_stream().is_capturing():
            raise KeyboardInterrupt
        launch(self, shape)

    with monkeypatch.context() as patch:
        patch.setattr(graphs.StepGraphs, "_launch_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            steps.loss(there, captions, 1.0, whole=True)
    assert not steps._graphs._stream.is_capturing()
    assert device.cuda.get_current_stream() == device.cuda.Stream.null
    with counting() as launches:
        for _ in range(2):
            assert np.isfinite(float(steps.loss(there, captions, 1.0, whole=True)))
    assert launches.count("graph") == 2
