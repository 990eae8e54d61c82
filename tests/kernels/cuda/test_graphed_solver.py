"""The solver with training steps as CUDA graphs: results, resumption, and when graphs are used."""

from __future__ import annotations

import logging

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda.device_calls import counting
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.solver import CaptioningSolver
from capgpu.training.graphs import GraphedSteps, training_steps
from capgpu.training.steps import TrainingSteps
from oracles.graphed_training import WORDS, D, H, W, batch, captioner
from oracles.numbers import distance
from oracles.snapshots import frozen


def dataset(count, seed=0):
    features, captions = batch(seed, count)
    captions[:, 0] = WORDS["<START>"]
    return {
        "train_captions": captions,
        "train_features": features,
        "train_image_idxs": np.arange(count),
        "word_to_idx": WORDS,
    }


def trained_solver(print_every=1000, **options):
    model = captioner(output_dropout=0.2)
    solver = CaptioningSolver(
        model, dataset(60), "adam", {"learning_rate": 1e-2}, batch_size=10, num_epochs=3, print_every=print_every,
        verbose=False, seed=1, clip_norm=2.0, lr_decay=0.9, schedule="cosine", **options,
    )  # fmt: skip
    solver.train()
    return solver


def test_reading_every_loss_does_not_change_the_bits_of_replayed_steps(device):
    for print_every in (1000, 1):
        with counting() as launches:
            solver = trained_solver(print_every=print_every)
        assert launches.count("graph") >= 12
        if print_every == 1000:
            graphed = solver
    reading_losses = solver
    assert frozen((graphed.model.params, graphed.loss_history)) == frozen(
        (reading_losses.model.params, reading_losses.loss_history)
    )


@pytest.mark.parametrize("graphed", [True, False], ids=["graphed", "plain"])
def test_a_solvers_losses_agree_with_those_on_the_host(device, monkeypatch, graphed):
    monkeypatch.setenv("CAPGPU_CUDA_GRAPHS", str(int(graphed)))
    with counting() as launches:
        losses = trained_solver().loss_history
    assert ("graph" in launches) == graphed
    with capgpu.use_backend("numpy"):
        assert distance(losses, trained_solver().loss_history) < 1e-4


def test_a_resumed_solver_has_the_bits_of_an_uninterrupted_one(device, tmp_path):
    uninterrupted = trained_solver()
    stopped = CaptioningSolver(
        captioner(output_dropout=0.2), dataset(60), "adam", {"learning_rate": 1e-2}, batch_size=10, num_epochs=3,
        print_every=1000, verbose=False, seed=1, clip_norm=2.0, lr_decay=0.9, schedule="cosine", checkpoint=tmp_path,
        callbacks=[lambda solver, record: (_ for _ in ()).throw(KeyError("stop")) if record["epoch"] == 2 else None],
    )  # fmt: skip
    with pytest.raises(KeyError, match="stop"):
        stopped.train()
    resumed = trained_solver(checkpoint=tmp_path, resume=True)
    assert frozen((uninterrupted.model.params, uninterrupted.loss_history)) == frozen(
        (resumed.model.params, resumed.loss_history)
    )


def test_a_nonfinite_loss_leaves_the_last_good_parameters(device):
    data = dataset(60)
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
def test_unsupported_models_and_rules_are_logged_and_trained_without_graphs(device, caplog, make, reason):
    model, rule = make()
    with caplog.at_level(logging.INFO, "capgpu"):
        steps = training_steps(model, Optimizer(rule, {}, model.params), None)
    assert type(steps) is TrainingSteps
    assert reason in caplog.text


def test_graphs_are_used_unless_the_environment_variable_forbids_them(device, monkeypatch):
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


def test_reference_kernels_are_not_graphed(device, monkeypatch, caplog):
    monkeypatch.setenv("CAPGPU_KERNELS", "reference")
    model = captioner()
    with caplog.at_level(logging.INFO, "capgpu"):
        assert type(training_steps(model, Optimizer("adam", {}, model.params), None)) is TrainingSteps
    assert "served by the reference kernels" in caplog.text


def test_host_parameters_are_not_graphed_and_nothing_is_logged(caplog):
    capgpu.set_backend("numpy")
    model = captioner()
    with caplog.at_level(logging.DEBUG, "capgpu"):
        assert type(training_steps(model, Optimizer("adam", {}, model.params), None)) is TrainingSteps
    assert not caplog.text
