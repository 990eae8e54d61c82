"""Recurrences with non-finite values and arbitrary memory contents; results that do not depend on the launch order."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.kernels.cuda import launch_heuristics, recurrence
from oracles.kernel_cases import EXTENTS, example, present, usual_case
from oracles.numbers import distance
from oracles.recurrence_runs import (
    ALIGNED,
    CASES,
    FULLEST,
    PRODUCTS,
    SHAPES,
    TENSOR_CORE_TOLERANCE,
    force_algorithm,
    run,
    tolerance_kind,
)
from oracles.snapshots import frozen
from simulators.emulator.runner import ORDERS, Order


def unsigned_dtype(dtype):
    return np.dtype(f"u{np.dtype(dtype).itemsize}")


def often(p):
    """Return whether parameters are tested at every run: all products with the RNN, one of each kind with the LSTM."""
    return p.name.startswith("rnn") or (p.name.startswith("lstm") and p.product_dtype == ("float32", "0"))


def rows_of(extents, sequence):
    """Return the rows of a sequence in the packed arrays."""
    batch_sizes = [sum(length > t for length in extents.lengths) for t in range(max(extents.lengths))]
    starts = np.cumsum([0, *batch_sizes])
    return [int(starts[t]) + sequence for t in range(extents.lengths[sequence])]


@pytest.fixture(params=PRODUCTS, ids=lambda product: f"{product[0]}{product[1]}")
def product_dtype(request, monkeypatch):
    """Set CAPGPU_TENSOR_CORES for each kind of products; return the storage type."""
    dtype, setting = request.param
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", setting)
    return dtype


@pytest.mark.nightly(unless=often)
@pytest.mark.parametrize("extents", ALIGNED, ids=["packs", "numbers"])
@pytest.mark.parametrize("name", launch_heuristics.PASSES)
def test_previous_contents_of_memory_do_not_change_results(
    recurrence_device, monkeypatch, product_dtype, name, extents
):
    case = usual_case(name)
    force_algorithm(monkeypatch, "persistent", launch_heuristics.PASSES[name].units[1], groups=2)
    arguments, _ = example(case, extents, product_dtype)
    bits = unsigned_dtype(product_dtype)
    all_ones = np.array(np.iinfo(bits).max, bits)
    finite_bits = np.array(0.25, product_dtype).view(bits)
    empty, results = recurrence.empty, []
    for content in (finite_bits, all_ones, all_ones >> 1, np.array(0, bits)):

        def used(shape, dtype, what, content=content):
            array = empty(shape, dtype, what)
            array.view(bits).fill(content[()])
            return array

        monkeypatch.setattr(recurrence, "empty", used)
        results.append(frozen(run(case, arguments)))
    assert results[1:] == results[:1] * 3


@pytest.mark.nightly(unless=often)
@pytest.mark.parametrize("sign", [0, 1])
@pytest.mark.parametrize("extents", ALIGNED, ids=["packs", "numbers"])
@pytest.mark.parametrize("name", launch_heuristics.PASSES)
def test_a_nan_with_all_bits_set_stays_in_its_sequence(
    recurrence_device, monkeypatch, product_dtype, name, extents, sign
):
    case = usual_case(name)
    force_algorithm(monkeypatch, "persistent", launch_heuristics.PASSES[name].units[1], groups=2)
    arguments = dict(example(case, extents, product_dtype)[0])
    finite_results = run(case, arguments)
    bits, rows = unsigned_dtype(product_dtype), rows_of(extents, 1)
    operand, row = ("dhidden", rows[-1]) if launch_heuristics.PASSES[name].backward else ("h0", 1)
    arguments[operand] = arguments[operand].copy()
    arguments[operand].view(bits)[row] = np.iinfo(bits).max >> sign
    for result, finite_result in zip(run(case, arguments), finite_results, strict=True):
        rows_of_sequence = np.zeros(len(result), bool)
        rows_of_sequence[rows if len(result) == sum(extents.lengths) else [1]] = True
        assert np.isnan(result[rows_of_sequence].astype(np.float64)).all()
        np.testing.assert_array_equal(result[~rows_of_sequence], finite_result[~rows_of_sequence])


def run_with_nonfinite(case, dtype, extents, operand, position, value):
    """Return the results of a case in which one element is replaced by a non-finite value, and those of the loops."""
    arguments = dict(example(case, extents, dtype)[0])
    arguments[operand] = arguments[operand].copy()
    arguments[operand][position] = value
    floats = {
        key: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == np.dtype(dtype) else value
        for key, value in arguments.items()
    }
    with np.errstate(all="ignore"):
        return run(case, arguments), present(case.plain(floats, extents))


@pytest.mark.nightly(unless=often)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("operand", ["h0", "Wh"])
@pytest.mark.parametrize("extents", ALIGNED, ids=["packs", "numbers"])
@pytest.mark.parametrize("name", ["lstm_forward", "rnn_forward"])
def test_an_infinite_operand_gives_the_saturated_states_of_the_loops(
    recurrence_device, monkeypatch, product_dtype, name, extents, operand, value
):
    case = usual_case(name)
    force_algorithm(monkeypatch, "persistent", launch_heuristics.PASSES[name].units[1], groups=2)
    results, expected = run_with_nonfinite(case, product_dtype, extents, operand, (1, 2), value)
    # except the last result, the previous states, which include h0 itself
    for actual, expected_array in zip(results[:-1], expected[:-1], strict=True):
        assert distance(actual, expected_array) < TENSOR_CORE_TOLERANCE[product_dtype][tolerance_kind(case)]


@pytest.mark.nightly(unless=often)
@pytest.mark.parametrize("value", [np.inf, -np.inf])
@pytest.mark.parametrize("extents", ALIGNED, ids=["packs", "numbers"])
@pytest.mark.parametrize("name", ["lstm_backward", "gru_backward", "rnn_backward"])
def test_an_infinite_gradient_makes_the_same_gradients_nonfinite_as_in_the_loops(
    recurrence_device, monkeypatch, product_dtype, name, extents, value
):
    case = usual_case(name)
    force_algorithm(monkeypatch, "persistent", launch_heuristics.PASSES[name].units[1], groups=2)
    last = rows_of(extents, 1)[-1]
    for actual, expected in zip(
        *run_with_nonfinite(case, product_dtype, extents, "dhidden", (last, 2), value), strict=True
    ):
        np.testing.assert_array_equal(np.isfinite(actual.astype(np.float64)), np.isfinite(expected))


@pytest.mark.nightly(
    unless=lambda p: (
        p.case in FULLEST.values() and p.case.operation.startswith("rnn" if p.groups != 3 else ("rnn", "lstm"))
    )
)
@pytest.mark.parametrize("groups", [1, 3, 7])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_number_of_row_groups_does_not_change_results(recurrence_device, monkeypatch, case, groups):
    # the products of a row are summed in the same order in every group
    arguments, _ = example(case, SHAPES[-2], "float32")
    units = launch_heuristics.PASSES[case.operation].units[1]
    force_algorithm(monkeypatch, "persistent", units, 2)
    two_groups = frozen(run(case, arguments))
    force_algorithm(monkeypatch, "persistent", units, groups)
    assert frozen(run(case, arguments)) == two_groups


@pytest.mark.nightly(unless=lambda p: p.order.name != "depth_first" or p.case.operation.startswith("rnn"))
@pytest.mark.parametrize("algorithm", ["persistent", "step"])
@pytest.mark.parametrize(
    "order", [Order(name, seed) for name in ORDERS for seed in range(1 + (name == "random"))], ids=str
)
@pytest.mark.parametrize("case", [CASES[1], *(case for case in CASES if case.operation == "rnn_backward")], ids=str)
def test_the_order_of_threads_and_blocks_does_not_change_results(
    recurrence_device, emulator, monkeypatch, case, order, algorithm
):
    arguments, _ = example(case, EXTENTS[1], "float64")
    force_algorithm(monkeypatch, algorithm, launch_heuristics.PASSES[case.operation].units[1], 2)
    default_order = frozen(run(case, arguments))
    monkeypatch.setattr(emulator, "order", order)
    assert frozen(run(case, arguments)) == default_order
