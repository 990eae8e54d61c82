"""Training steps as CUDA graphs have the results of steps launched kernel by kernel, in few launches."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cells import CELLS
from capgpu.kernels.cuda.device_calls import counting
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.training.graphs import GraphedSteps
from capgpu.training.steps import TrainingSteps
from capgpu.validation import checked_data
from oracles.graphed_training import MAX_STEPS, WORDS, D, H, W, batch, captioner, train
from oracles.halves import ALL
from oracles.numbers import TOLERANCE, distance
from oracles.snapshots import frozen
from simulators import cupy_standin

#: Parameters tested at every run: all rules, and all dtypes with the smaller cell.
DAILY = {
    ("lstm", "float32", "adam"),
    ("lstm", "float32", "sgd_momentum"),
    ("gru", "float32", "adam"),
    *(("rnn", dtype, "adam") for dtype in ("float16", "bfloat16", "float64")),
}


@pytest.mark.nightly(
    unless=lambda p: (p.cell, p.dtype, p.rule) in DAILY and p.clip_norm == (None if p.cell == "lstm" else 0.5)
)
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("rule", "clip_norm"), [("adam", None), ("adam", 0.5), ("sgd_momentum", None), ("sgd", 0.1)])
def test_replayed_steps_have_the_bits_of_uncaptured_steps_and_the_values_of_plain_ones(
    device, train_uncaptured, cell, dtype, rule, clip_norm
):
    batches = [batch(seed, 10 - seed % 2, dtype, MAX_STEPS - seed % 5) for seed in range(8)]
    settings = {"cell": cell, "dtype": dtype, "rule": rule, "clip_norm": clip_norm}
    with counting() as launches:
        graphed = train(device, GraphedSteps, batches, True, **settings)
    assert 2 <= launches.count("graph") / 2 < len(batches)
    halves = train(device, GraphedSteps, batches, False, **settings)
    assert frozen(graphed) == frozen(halves)
    assert frozen(graphed) == frozen(train_uncaptured(device, GraphedSteps, batches, False, **settings))
    plain = train(device, TrainingSteps, batches, True, **settings)
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
def test_replayed_steps_with_all_options_of_the_loss_have_the_masks_of_plain_steps_and_of_the_host(
    device, train_uncaptured, cell, options
):
    batches = [batch(5), batch(5), batch(6, max_length=4), batch(6, max_length=4)]
    with counting() as launches:
        graphed = train(device, GraphedSteps, batches, True, cell, **options)
    assert launches.count("graph") == 4
    assert frozen(graphed) == frozen(train(device, GraphedSteps, batches, False, cell, **options))
    assert frozen(graphed) == frozen(train_uncaptured(device, GraphedSteps, batches, True, cell, **options))
    losses = [loss for loss, _ in graphed]
    plain = train(device, TrainingSteps, batches, True, cell, **options)
    assert distance(losses, [loss for loss, _ in plain]) < 1e-5
    with capgpu.use_backend("numpy"):
        host = train(np, TrainingSteps, batches, True, cell, **options)
    assert distance(losses, [loss for loss, _ in host]) < 1e-4
    # the same batch has different losses, so its two steps had different masks
    assert distance([losses[0]], [losses[1]]) > 1e-3


def test_replayed_steps_with_tied_weights_agree_with_plain_ones(device):
    batches = [batch(1), batch(1), batch(2), batch(1)]

    def run(steps, whole):
        model = CaptioningRNN(WORDS, D, H, H, "lstm", "float32", seed=3, tie_weights=True)
        trainer = steps(model, Optimizer("adamw", {}, model.params), 1.0)
        losses = []
        for features, captions in batches:
            losses.append(float(trainer.loss(device.asarray(features), captions, 1.0, whole=whole)))
            trainer.update(1.0)
        return losses, {name: array.get() for name, array in model.params.items()}

    graphed, halves, plain = run(GraphedSteps, True), run(GraphedSteps, False), run(TrainingSteps, True)
    assert frozen(graphed) == frozen(halves)
    assert distance(graphed[0], plain[0]) < 1e-5


def test_a_replayed_step_is_two_launches_and_three_copies_without_synchronization(device, real_device):
    model = captioner(feature_dropout=0.3, output_dropout=0.2, label_smoothing=0.1)
    steps = GraphedSteps(model, Optimizer("adam", {}, model.params), 1.0)
    features, captions = batch(0)
    dev_features = device.asarray(features)
    steps.loss(dev_features, captions, 1.0, whole=True, dropout_key=1)
    cupy_standin.reset_counters()
    with counting() as launches, cupy_standin.forbid_synchronisation(), checked_data():
        steps.loss(dev_features, captions, 1.0, whole=True, dropout_key=2)
        steps.update(1.0)
    assert launches == ["copy", "copy", "graph", "copy", "graph"]
    assert real_device or cupy_standin.counters().host_to_device_copies == 1
    assert cupy_standin.counters().allocations == 0


def test_replaced_parameters_and_optimizer_state_are_used_by_the_next_replay(device):
    features, captions = batch(0)
    final_states = []
    for whole in (True, False):
        model = captioner()
        optimizer = Optimizer("adam", {"learning_rate": 1e-2}, model.params)
        steps = GraphedSteps(model, optimizer, None)
        for index in range(4):
            if index == 2:
                model.params["b_vocab"] = device.full(len(WORDS), 0.5, "float32")
                optimizer.load_state_dict(optimizer.state_dict())
            steps.loss(device.asarray(features), captions, 1.0, whole=whole)
            steps.update(1.0)
        final_states.append(frozen((model.params, optimizer.state_dict())))
        assert optimizer.configs["Wh"]["t"] == 4
    assert final_states[0] == final_states[1]
    model.params["b_vocab"] = device.full(len(WORDS), 0.25, "float32")
    replacement = model.params["b_vocab"]
    steps.loss(device.asarray(features), captions, 1.0, whole=True)
    assert (replacement.get() == 0.25).all()  # the caller's array is not modified


@pytest.mark.parametrize("step", [0, 2])
@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_parameters_are_identified_by_name_regardless_of_their_order(device, cell, step):
    features, captions = batch(0)
    final_states = []
    for reordered in (False, True):
        model = captioner(cell)
        optimizer = Optimizer("adam", {"learning_rate": 1e-2}, model.params)
        steps = GraphedSteps(model, optimizer, None)
        for index in range(4):
            if reordered and index == step:
                # in an RNN, b_proj and b have the same shape, so an exchange would not raise
                names = [*model.params]
                names[2], names[5] = names[5], names[2]
                model.params = {name: model.params[name] for name in reversed(names)}
            steps.loss(device.asarray(features), captions, 1.0, whole=True)
            steps.update(1.0)
        final_states.append(frozen([(model.params[name], optimizer.configs[name]) for name in sorted(model.params)]))
    assert final_states[0] == final_states[1]


def test_exchanging_two_parameters_exchanges_their_values(device):
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


def test_two_models_in_one_process_do_not_share_graphs(device):
    def run(*seeds):
        """Train models in turn; return the parameters of each."""
        models = [CaptioningRNN(WORDS, D, W, H, "lstm", seed=seed) for seed in seeds]
        steps = [GraphedSteps(model, Optimizer("adam", {}, model.params), None) for model in models]
        for index in range(4):
            for seed, trainer in zip(seeds, steps, strict=True):
                features, captions = batch(10 * seed + index % 2)
                trainer.loss(device.asarray(features), captions, 1.0, whole=True)
                trainer.update(1.0)
        return [frozen(model.params) for model in models]

    assert run(1, 2) == [*run(1), *run(2)]
