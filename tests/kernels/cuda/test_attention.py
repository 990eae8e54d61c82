"""The attention LSTM on the device: more units and cells than a block has threads, launches, and capture in a graph."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import KERNELS
from capgpu.kernels.cuda.device_calls import counting, launch_graph
from capgpu.kernels.cuda.graphs import _capturing
from capgpu.kernels.cuda.held_results import holding_results
from capgpu.kernels.cuda.recurrence import Steps
from capgpu.kernels.cuda.workspace import Workspace
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.training.graphs import GraphedSteps
from capgpu.training.steps import TrainingSteps
from oracles import graphed_training
from oracles.halves import ALL
from oracles.kernel_cases import Extents, example, present, usual_case
from oracles.kernel_launches import on_device
from oracles.numbers import TOLERANCE, distance
from oracles.snapshots import frozen
from simulators import cupy_standin

FORWARD, BACKWARD, DECODE = (
    usual_case(f"attention_{name}") for name in ("lstm_forward", "lstm_backward", "decode_step")
)
#: More units than threads of a block, and more cells than lanes of a warp.
WIDE = Extents((3, 1), 515, 35)


@pytest.mark.nightly(unless=lambda p: p.dtype == "float32")
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("case", [FORWARD, BACKWARD, DECODE], ids=str)
def test_many_units_and_cells_agree_with_the_loops(device, case, dtype):
    arguments, expected = example(case, WIDE, dtype)
    results = getattr(KERNELS, case.operation)(**on_device(dict(arguments)))
    for actual, expected_array, kind in zip(present(results), present(expected), case.kinds, strict=True):
        assert distance(capgpu.to_numpy(actual), expected_array) < TOLERANCE[dtype][kind]


def test_a_step_takes_one_product_and_one_more_launch(device):
    extents = Extents((4, 3, 1), 6, 5)
    forward, backward = (on_device(dict(example(case, extents, "float32")[0])) for case in (FORWARD, BACKWARD))
    with counting() as launches:
        KERNELS.attention_lstm_forward(**forward)
    assert launches == ["copy"] * 2 + ["attention_lstm_forward", "matmul"] * 4 + ["attention_lstm_forward"]
    with counting() as launches:
        KERNELS.attention_lstm_backward(**backward)
    steps = ["attention_lstm_backward", "matmul"] * 4
    assert launches == ["copy"] * 2 + [*steps, "attention_lstm_backward", "attention_gradient"]


def test_a_decoding_step_does_not_synchronize(device):
    arguments = on_device(dict(example(DECODE, Extents((1, 1), 6, 5), "float32")[0]))
    with cupy_standin.forbid_synchronisation():
        KERNELS.attention_decode_step(**arguments)


def test_a_captured_pass_has_the_bits_of_launches_one_by_one_whatever_the_lengths(device):
    dtype, counts = "float32", ([4, 4, 2, 1], [4, 3, 3, 1])  # as many captions, steps, and rows
    random = np.random.default_rng(0)

    def draw(*shape):
        return device.asarray(random.standard_normal(shape).astype(dtype))

    projected, A, Wh, Wattn, dhidden = draw(11, 24), draw(4, 5, 6), draw(6, 24), draw(6, 24), draw(11, 6)
    sizes = device.asarray(np.array(counts[0], np.int32))

    def run(steps):
        states = KERNELS.attention_lstm_forward(projected, None, A, Wh, Wattn, steps)
        saved = states.gates, states.cell, states.previous, states.attention
        return states, KERNELS.attention_lstm_backward(dhidden, *saved, A, Wh, Wattn, steps)

    def bits(results):
        return frozen([capgpu.to_numpy(array) for part in results for array in part])

    expected = [bits(run(np.array(count))) for count in counts]
    space, steps = Workspace(), Steps(tuple(counts[0]), sizes)
    for _ in range(2):
        with holding_results(space, {}):
            results = run(steps)
    assert bits(results) == expected[0]
    with _capturing(device.cuda.Stream(non_blocking=True)) as graphs, holding_results(space, {}):
        run(steps)
    sizes[...] = device.asarray(np.array(counts[1], np.int32))
    launch_graph(graphs[0])
    assert bits(results) == expected[1]


def train(steps_class, device, batches):
    """Return the losses of training steps on batches, each given by a seed and the cells of its pictures."""
    model = CaptioningRNN(graphed_training.WORDS, 7, 5, 6, "attention", "float32", seed=3, output_dropout=0.2)
    steps, losses = steps_class(model, Optimizer("adam", {"learning_rate": 1e-2}, model.params), 0.5), []
    for seed, cells in batches:
        grids = np.random.default_rng(seed).standard_normal((5, cells, 7)).astype(np.float32)
        _, captions = graphed_training.batch(seed, 5, max_length=4)
        losses.append(float(steps.loss(device.asarray(grids), captions, 1.0, whole=True, dropout_key=seed)))
        steps.update(1.0)
    return losses


# batches of the same captions and other grids than those of a graph must not be copied to that graph's memory
@pytest.mark.parametrize("batches", [[(5, 4), (5, 4), (6, 4)], [(5, 9), (5, 3), (5, 9), (5, 4)]], ids=["grid", "grids"])
def test_training_steps_are_made_from_graphs(device, batches):
    with counting() as launches:
        losses = train(GraphedSteps, device, batches)
    assert launches.count("graph") >= 2
    assert distance(losses, train(TrainingSteps, device, batches)) < 1e-5
