"""Training steps that cannot be captured in a CUDA graph, errors and interrupts during capture."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

import capgpu
from capgpu.captioner import captioner_gradients
from capgpu.kernels.cuda import compile, graphs, launch_heuristics
from capgpu.kernels.cuda import cublas as direct
from capgpu.kernels.cuda.device_calls import counting
from capgpu.optim import Optimizer
from capgpu.training.graphs import GraphedSteps
from capgpu.training.steps import TrainingSteps
from oracles.graphed_training import MAX_STEPS, batch, captioner, train
from oracles.numbers import distance
from oracles.snapshots import frozen
from simulators.cupy_standin.driver import Function
from simulators.cupy_standin.state import STATE


def test_an_additional_parameter_is_refused_as_by_a_plain_step(device):
    features, captions = batch(0)
    for n_steps in (0, 2):
        model = captioner()
        steps = GraphedSteps(model, Optimizer("sgd", {}, model.params), None)
        for _ in range(n_steps):
            steps.loss(device.asarray(features), captions, 1.0, whole=True)
            steps.update(1.0)
        model.params["scale"] = device.ones(3, "float32")
        with pytest.raises(ValueError, match=r"params\['scale'\]: expected the entries W_embed"):
            steps.loss(device.asarray(features), captions, 1.0, whole=True)


def test_a_model_moved_to_the_host_is_trained_there(device):
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


def test_if_capturing_fails_steps_are_launched_by_kernel_after_one_warning_with_the_same_bits(
    device, train_uncaptured, monkeypatch
):
    monkeypatch.setattr(direct, "_open", lambda: (_ for _ in ()).throw(OSError("no cuBLAS here")))
    direct.forget()  # products are computed by CuPy, which raises during capture
    batches = [batch(seed) for seed in range(4)]
    with (
        counting() as launches,
        pytest.warns(RuntimeWarning, match="cannot be captured in a CUDA graph") as warnings_raised,
    ):
        graphed = train(device, GraphedSteps, batches, True)
    assert len(warnings_raised) == 1
    assert "graph" not in launches
    assert frozen(graphed) == frozen(train_uncaptured(device, GraphedSteps, batches, True))


def test_an_allocation_during_capture_ends_the_capture(device):
    stream = device.cuda.Stream(non_blocking=True)
    with pytest.raises(graphs.CaptureError, match="4,096 bytes were requested"), graphs._capturing(stream):
        device.empty(4096, "uint8")
    assert not stream.is_capturing()
    assert device.ones(3).sum().get() == 3


def test_a_cooperative_launch_refused_only_during_capture_stays_in_use_outside(device, emulator, monkeypatch):
    class RefusedError(RuntimeError):
        status = 801  # CUDA_ERROR_NOT_SUPPORTED

    original_check = Function.check_launch

    def check_launch(self, grid, block, shared, cooperative):
        if cooperative and STATE.capture is not None:
            raise RefusedError("CUDA_ERROR_NOT_SUPPORTED: operation not supported")
        original_check(self, grid, block, shared, cooperative)

    monkeypatch.setattr(Function, "check_launch", check_launch)
    with pytest.warns(RuntimeWarning, match=r"cannot be captured in a CUDA graph \(CUDA_ERROR_NOT_SUPPORTED"):
        train(device, GraphedSteps, [batch(0)] * 2, True)
    assert compile.device_limits().cooperative


def test_a_launch_refused_between_two_batches_without_an_update_falls_back(device, emulator, monkeypatch):
    class RefusedError(RuntimeError):
        status = 801  # CUDA_ERROR_NOT_SUPPORTED

    def check_launch(self, grid, block, shared, cooperative):
        if cooperative:
            raise RefusedError("CUDA_ERROR_NOT_SUPPORTED: operation not supported")

    features, captions = batch(0)
    first, second = np.zeros_like(captions), np.zeros_like(captions)
    for captions_given, steps in ((first, [8, 2, 2, 2, 2, 2, 2, 2, 2]), (second, [8, 8, 8, 1, 1, 1, 1, 1, 1])):
        captions_given[np.arange(MAX_STEPS + 1) <= np.array(steps)[:, None]] = 5
    model = captioner()
    expected = float(
        TrainingSteps(model, Optimizer("sgd", {}, model.params), None).loss(device.asarray(features), second, 1)
    )
    steps = GraphedSteps(model, Optimizer("sgd", {}, model.params), None)
    steps.loss(device.asarray(features), first, 1.0)
    monkeypatch.setattr(Function, "check_launch", check_launch)
    with pytest.warns(RuntimeWarning, match="the driver refuses a cooperative launch"):
        actual = float(steps.loss(device.asarray(features), second, 1.0))
    launch_heuristics.forget()
    assert distance(actual, expected) < 1e-5


def test_recurrences_with_one_launch_per_step_are_not_captured(device, monkeypatch):
    monkeypatch.setitem(compile._limits, 0, replace(compile.device_limits(), cooperative=False))
    launch_heuristics.forget()
    with counting() as launches:
        results = train(device, GraphedSteps, [batch(0)] * 2, True)
    launch_heuristics.forget()
    assert {"lstm_forward_step", "adam"} <= set(launches)
    assert "graph" not in launches
    assert results[1][0] != results[0][0]


def test_invalid_batches_are_refused_and_change_nothing(device):
    model = captioner()
    optimizer = Optimizer("adam", {}, model.params)
    steps = GraphedSteps(model, optimizer, None)
    features, captions = batch(0)
    dev_features = device.asarray(features)
    steps.loss(dev_features, captions, 1.0, whole=True)
    state_before = frozen((model.params, optimizer.state_dict()))
    bad = captions.copy()
    bad[2, 1] = 99
    for whole in (True, False):
        with pytest.raises(ValueError, match=r"captions\[2, 1\]: .*, got 99"):
            steps.loss(dev_features, bad, 1.0, whole=whole)
    with pytest.raises(ValueError, match="features: expected shape"):
        steps.loss(dev_features[:, :3], captions, 1.0, whole=True)
    assert frozen((model.params, optimizer.state_dict())) == state_before


def test_an_update_without_gradients_is_an_error(device):
    model = captioner()
    steps = graphs.StepGraphs(captioner_gradients, model.params, "adam", [[], []])
    with pytest.raises(RuntimeError, match=r"expected gradients\(\) before update\(\)"):
        steps.update(np.zeros((8, 8)))


def test_an_interrupt_during_capture_ends_the_capture(device, monkeypatch):
    model = captioner()
    steps = GraphedSteps(model, Optimizer("adam", {}, model.params), None)
    features, captions = batch(0)
    dev_features = device.asarray(features)
    launch = graphs.StepGraphs._launch_update

    def interrupted(self, shape):
        if device.cuda.get_current_stream().is_capturing():
            raise KeyboardInterrupt
        launch(self, shape)

    with monkeypatch.context() as patch:
        patch.setattr(graphs.StepGraphs, "_launch_update", interrupted)
        with pytest.raises(KeyboardInterrupt):
            steps.loss(dev_features, captions, 1.0, whole=True)
    assert not steps._graphs._stream.is_capturing()
    assert device.cuda.get_current_stream() == device.cuda.Stream.null
    with counting() as launches:
        for _ in range(2):
            assert np.isfinite(float(steps.loss(dev_features, captions, 1.0, whole=True)))
    assert launches.count("graph") == 2
