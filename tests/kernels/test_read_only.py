"""Read-only arrays, as memory-mapped files are, are served by the code of all others, and stay as they were."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cpu import KERNELS
from capgpu.kernels.cpu.workspace import contiguous
from oracles.compilations import compilations
from oracles.kernel_cases import KERNEL_CASES, OVERWRITABLE, Extents, example
from oracles.scenes import CELLS
from oracles.snapshots import frozen


def read_only(value):
    if isinstance(value, list):
        return [read_only(part) for part in value]
    if isinstance(value, np.ndarray):
        value = value.copy()
        value.flags.writeable = False
    return value


@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
def test_operations_compile_nothing_more(case):
    arguments, _ = example(case, Extents((5, 4, 2), 7, 33), "float32")
    operation = getattr(KERNELS, case.operation)
    expected = frozen(operation(**{k: v.copy() if isinstance(v, np.ndarray) else v for k, v in arguments.items()}))
    writable = OVERWRITABLE.get(case.operation, set())
    n_compilations = compilations()
    read_only_arguments = {
        name: value.copy() if name in writable else read_only(value) for name, value in arguments.items()
    }
    assert n_compilations > 0
    assert frozen(operation(**read_only_arguments)) == expected
    assert compilations() == n_compilations
    for name in read_only_arguments.keys() - writable:
        assert frozen(read_only_arguments[name]) == frozen(arguments[name]), name


def update_arguments(random):
    def arrays():
        return [random.uniform(0.1, 1, shape).astype(np.float32) for shape in ((33, 7), (5,), (1, 1))]

    return arrays(), arrays(), np.tile([0.03, 0.9, 0.1, 0.999, 0.001, 30.0, 1e-8, 1.0], (3, 1)), arrays(), arrays()


def test_update_rules_compile_nothing_more(random):
    params, grads, settings, first, second = update_arguments(random)

    def copies(arrays):
        return [array.copy() for array in arrays]

    def update(params, grads):
        return frozen(
            [
                KERNELS.adam_update(params, grads, copies(first), copies(second), settings, 0.7),
                KERNELS.momentum_update(params, grads, None, settings[:, :2], 0.7),
                KERNELS.momentum_update(params, grads, copies(first), settings[:, :2], 0.7),
                KERNELS.gradient_norm(grads, 1.0),
            ]
        )

    expected, n_compilations = update(params, grads), compilations()
    read_only_arrays = read_only(params), read_only(grads)
    assert update(*read_only_arrays) == expected
    assert compilations() == n_compilations
    assert frozen(list(read_only_arrays)) == frozen([params, grads])


@pytest.mark.parametrize("cell_type", CELLS)
def test_a_model_of_read_only_weights_compiles_nothing_more(random, cell_type):
    capgpu.set_backend("cpu")
    model = capgpu.CaptioningRNN({"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3}, 3, 4, 5, cell_type, seed=0)
    features = random.standard_normal((2, 3)).astype(np.float32)
    captions = np.array([[1, 3, 2], [1, 2, 0]])

    def use(features, captions):
        return frozen([*model.loss(features, captions), model.sample(features, 4)])

    expected, n_compilations = use(features, captions), compilations()
    for name, value in model.params.items():
        model.params[name] = read_only(value)
    assert use(read_only(features), read_only(captions)) == expected
    assert compilations() == n_compilations


def test_a_mapped_file_is_not_copied(tmp_path, random):
    values = random.standard_normal((5, 7)).astype(np.float32)
    values.tofile(tmp_path / "values")
    mapped = np.memmap(tmp_path / "values", np.float32, "r", shape=(5, 7))
    converted = contiguous(mapped)
    assert type(converted) is np.ndarray
    assert converted.flags.carray
    assert np.shares_memory(converted, mapped)
    address = mapped.ctypes.data
    del mapped  # the view keeps the file mapped
    assert converted.ctypes.data == address
    assert converted.tolist() == values.tolist()


@pytest.mark.parametrize("shape", [(0, 3), (1,), (2, 0), (3, 4)])
def test_read_only_views_of_any_shape_give_the_same_results(shape):
    array = np.ones(shape)
    assert contiguous(array) is array
    array.flags.writeable = False
    converted = contiguous(array)
    assert (converted.shape, converted.dtype, converted.flags.carray) == (shape, array.dtype, True)
    assert not array.flags.writeable


def test_misaligned_memory_is_copied():
    memory = np.zeros(8 * 4 + 1, np.uint8)[1:].view(np.float64)
    memory[:] = range(4)
    for writable in (True, False):
        memory.flags.writeable = writable
        converted = contiguous(memory)
        assert converted.flags.carray
        assert converted.tolist() == [0, 1, 2, 3]


def test_scores_that_cannot_be_overwritten_are_copied():
    scores = read_only(np.zeros((2, 3), np.float32))
    _, gradient = KERNELS.softmax_cross_entropy(scores, np.array([0, 1]), 1.0)
    assert not scores.any()
    assert gradient.any()
