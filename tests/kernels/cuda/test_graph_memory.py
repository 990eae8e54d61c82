"""Memory of training steps as CUDA graphs: workspace, pinned memory, number of graphs."""

from __future__ import annotations

import gc

import numpy as np

from capgpu.kernels.cuda import graphs, softmax
from capgpu.kernels.cuda.device_calls import counting
from capgpu.kernels.cuda.pinned import PinnedMemory
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.training.graphs import GraphedSteps
from oracles.graphed_training import MAX_STEPS, WORDS, D, W, batch, captioner
from oracles.numbers import distance


def test_graphs_of_memory_outgrown_by_a_larger_batch_are_discarded_and_captured_again(device, real_device):
    model = captioner()
    steps = GraphedSteps(model, Optimizer("sgd", {"learning_rate": 1e-9}, model.params), 1.0)
    small, large = ((device.asarray(features), captions) for features, captions in (batch(0), batch(1, 90)))
    first_losses = [float(steps.loss(*small, 1.0, whole=True)) for _ in range(2)]
    steps.loss(*large, 1.0, whole=True)
    gc.collect()
    pool = device.get_default_memory_pool()
    used_after_growth, replays = pool.used_bytes(), []
    for features, captions in (small, small, large, small, large):
        with counting() as launches:
            loss = float(steps.loss(features, captions, 1.0, whole=True))
        replays.append(launches.count("graph"))
        if captions is small[1]:
            assert distance(loss, first_losses[0]) < 1e-5
    assert replays == [0, 2, 2, 2, 2]
    gc.collect()
    assert real_device or pool.used_bytes() <= used_after_growth + 4096  # except for the losses of a step


def buffer_bytes(steps):
    """Return the size in bytes of each array in the graphs' workspace."""
    return {name: buffer.nbytes for name, buffer in steps._graphs._space._buffers.items()}


def test_the_scores_buffer_has_capacity_for_later_batches_up_to_its_limit(device, monkeypatch):
    limit = 70 * len(WORDS) * 4
    for module_ in (graphs, softmax):
        monkeypatch.setattr(module_, "SCORE_BYTES", limit)
    model = captioner()
    steps = GraphedSteps(model, Optimizer("sgd", {}, model.params), None)
    features, captions = batch(0, max_length=5)
    steps.loss(device.asarray(features), captions, 1.0, whole=True)
    (shape,) = steps._graphs._shapes.values()
    assert shape.batch.targets.size <= 70 < features.shape[0] * MAX_STEPS
    assert buffer_bytes(steps)["scores"] == limit


def test_parameter_gradients_have_no_spare_capacity_even_if_their_rows_equal_the_batchs(device):
    model = CaptioningRNN(WORDS, D, W, 32, "lstm", "float32", seed=3)
    steps = GraphedSteps(model, Optimizer("sgd", {}, model.params), None)
    features, captions = batch(0, max_length=3)
    steps.loss(device.asarray(features), captions, 1.0, whole=True)
    (shape,) = steps._graphs._shapes.values()
    assert 32 in (shape.batch.targets.size, shape.batch.words.size)
    assert buffer_bytes(steps)["the gradient of W (1)"] == model.params["W_vocab"].nbytes


def test_the_least_recently_used_graphs_are_discarded(device, monkeypatch):
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


def test_pinned_memory_is_not_reused_while_a_copy_reads_it(device, monkeypatch):
    memory = PinnedMemory()
    dev_array = device.zeros(8, "int32")
    memory.send([(dev_array, np.arange(8, dtype=np.int32))])
    (first_buffer,) = memory._buffers
    device.cuda.runtime.deviceSynchronize()  # the copy has ended
    memory.send([(dev_array, np.arange(8, dtype=np.int32) + 1)])
    assert len(memory._buffers) == 1
    assert memory._buffers[0] is first_buffer
    monkeypatch.setattr(device.cuda.Event, "done", False)  # from here on every copy seems to be unfinished
    content = first_buffer[0].copy()
    memory.send([(dev_array, np.arange(8, dtype=np.int32) + 2)])
    assert (dev_array.get() == np.arange(8) + 2).all()
    assert len(memory._buffers) == 2
    assert (first_buffer[0] == content).all()


def test_garbage_collection_does_not_destroy_an_event_before_its_last_query(device):
    destroyed_when_queried = []

    class Event:  # like CuPy's, destroyed in __del__, which the garbage collector calls in any order
        destroyed = False

        @property
        def done(self):
            destroyed_when_queried.append(self.destroyed)
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
    assert destroyed_when_queried == [False]
