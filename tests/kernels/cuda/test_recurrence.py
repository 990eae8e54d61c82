"""The recurrences in every algorithm and variant agree with plain loops in float64."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda import compile, launch_heuristics, recurrence
from capgpu.kernels.cuda.device_calls import counting
from capgpu.kernels.cuda.kernel_registry import REGISTRY
from oracles.halves import ALL, BFLOAT16
from oracles.kernel_cases import EXTENTS, Extents, example, present
from oracles.numbers import TOLERANCE, distance
from oracles.recurrence_runs import (
    CASES,
    FULLEST,
    SHAPES,
    TENSOR_CORE_TOLERANCE,
    VARIANTS,
    check,
    config_of,
    emulate_architecture,
    force_algorithm,
    is_daily,
    run,
    tolerance_kind,
)
from oracles.snapshots import frozen


@pytest.mark.nightly(unless=lambda p: is_daily(p, p.dtype))
@pytest.mark.parametrize("extents", SHAPES, ids=range(len(SHAPES)))
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize(("algorithm", "name", "units"), VARIANTS)
def test_every_algorithm_and_variant_agrees_with_the_loops(
    recurrence_device, monkeypatch, algorithm, name, units, dtype, extents
):
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", "0")
    force_algorithm(monkeypatch, algorithm, units, groups=2)
    for case in CASES:
        if case.operation == name:
            check(case, dtype, extents)


#: Source files of the cells.
SOURCES = {f"{cell}.cu" for cell in recurrence.CELLS}


def test_every_kernel_of_a_recurrence_is_among_the_variants():
    suffixes = {"persistent": ("", "_tensor", "_split"), "step": ("_step",), "matmul": ()}
    tested = {(f"{name}{suffix}", units) for algorithm, name, units in VARIANTS for suffix in suffixes[algorithm]}
    entries = [entry for entry in REGISTRY.values() if entry.file in SOURCES]
    assert tested == {(entry.name, dict(macros)["UNITS"]) for entry in entries for macros in entry.variants}


#: Tested at every run: each operand in one of the algorithms.
DAILY_SHIFTS = [
    *(("persistent", name) for name in ("h0", "dhidden", "gates")),
    *(("step", name) for name in ("projected", "c0", "Wh", "dcell", "cell", "hidden")),
]


@pytest.mark.nightly(unless=lambda p: (p.algorithm, p.shifted_operand) in DAILY_SHIFTS)
@pytest.mark.parametrize(
    "shifted_operand", ["projected", "h0", "c0", "Wh", "dhidden", "dcell", "gates", "cell", "hidden"]
)
@pytest.mark.parametrize("algorithm", ["persistent", "step"])
def test_operands_not_aligned_to_16_bytes_give_the_same_results(
    recurrence_device, monkeypatch, every_case, algorithm, shifted_operand
):
    # with H of 64, only the first address prevents copies of 16 bytes
    extents = SHAPES[-2]
    cases = [
        case for case in CASES if isinstance(example(case, extents, "float32")[0].get(shifted_operand), np.ndarray)
    ]
    assert cases
    if not every_case:  # the one of each operation with the most options
        cases = list({case.operation: case for case in cases}.values())
    for case in cases:
        arguments, expected = example(case, extents, "float32")
        force_algorithm(monkeypatch, algorithm, launch_heuristics.PASSES[case.operation].units[1], groups=2)
        dev_arguments = {
            name: capgpu.asarray(value) if isinstance(value, np.ndarray) and name != "batch_sizes" else value
            for name, value in arguments.items()
        }
        flat = arguments[shifted_operand].ravel()
        dev_arguments[shifted_operand] = capgpu.asarray(np.append(flat[:1], flat))[1:].reshape(
            arguments[shifted_operand].shape
        )
        assert dev_arguments[shifted_operand].data.ptr % 16
        results = getattr(recurrence, case.operation)(**dev_arguments)
        for actual, expected_array in zip(present(results), present(expected), strict=True):
            assert distance(capgpu.to_numpy(actual), expected_array) < TOLERANCE["float32"][tolerance_kind(case)]


@pytest.mark.nightly(unless=lambda p: is_daily(p, p.dtype) and p.name.startswith("rnn"))
@pytest.mark.parametrize(("dtype", "tensor_cores"), [("float32", "0"), ("float32", ""), ("float64", "")])
@pytest.mark.parametrize(("algorithm", "name", "units"), [variant for variant in VARIANTS if variant[0] != "matmul"])
def test_reusing_shared_buffers_within_a_step_agrees_with_the_loops(
    recurrence_device, monkeypatch, algorithm, name, units, dtype, tensor_cores
):
    # 528 terms are 33 chunks for 8 warps with at most 4 chunks of 16 rows in flight, or for 4 warps with 2 buffers
    extents = Extents((2,) * 17, 528, 1)
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", tensor_cores)
    case = next(case for case in CASES if case.operation == name)
    config = config_of(algorithm, name, units, dtype, 528, 17, 1)
    if config.shared > compile.device_limits().shared_per_block:
        with pytest.raises(compile.LaunchError, match="shared memory"):
            config.kernel(name, dtype)(config.grid, config.block, (), config.shared)
        return
    force_algorithm(monkeypatch, algorithm, units, groups=1)
    check(case, dtype, extents)


@pytest.mark.nightly(
    unless=lambda p: is_daily(p) and (p.name.startswith("rnn") or p.extents in (EXTENTS[1], SHAPES[-2]))
)
@pytest.mark.parametrize(
    "extents",
    [
        *(EXTENTS[1], EXTENTS[2], SHAPES[-2], SHAPES[-1]),
        # 41 terms, 164 in the LSTM's backward pass: several chunks per warp with a partial last one; two tiles of rows
        Extents((3,) * 37 + (2,) * 30 + (1,) * 2, 41, 3),
        Extents((2,) * 35, 136, 2),  # the same in packs
    ],
    ids=["ragged", "numbers", "packs", "tiles", "tiles of numbers", "chunks"],
)
@pytest.mark.parametrize(
    ("dtype", "tensor_cores"),
    [("float32", "1"), ("float32", ""), ("float16", ""), pytest.param("bfloat16", "", marks=BFLOAT16.marks)],
    ids=["tf32", "float32", "float16", "bfloat16"],
)
@pytest.mark.parametrize(
    ("name", "units"), [(name, units) for algorithm, name, units in VARIANTS if algorithm == "persistent"]
)
def test_tensor_cores_agree_with_the_loops_within_their_precision(
    recurrence_device, monkeypatch, every_case, name, units, dtype, tensor_cores, extents
):
    split = dtype == "float32" and not tensor_cores
    tolerance = TOLERANCE[dtype] if split else TENSOR_CORE_TOLERANCE[dtype]
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", tensor_cores)
    force_algorithm(monkeypatch, "persistent", units, groups=2)
    for case in CASES if every_case else FULLEST.values():
        if case.operation == name:
            arguments, expected = example(case, extents, dtype)
            with counting() as launches:
                results = run(case, arguments)
            assert f"{name}_{'split' if split else 'tensor'}" in launches
            for actual, expected_array in zip(results, present(expected), strict=True):
                assert distance(actual, expected_array) < tolerance[tolerance_kind(case)]


@pytest.mark.nightly(unless=lambda p: is_daily(p) and p.name.startswith("rnn") and p.tensor_cores == "")
@pytest.mark.standin
@pytest.mark.parametrize(("dtype", "tensor_cores"), [("float32", "0"), ("float32", ""), ("float16", "")])
@pytest.mark.parametrize(
    ("name", "units"), [(name, units) for algorithm, name, units in VARIANTS if algorithm == "persistent"]
)
def test_devices_with_less_shared_memory_compute_the_same_bits(
    recurrence_device, monkeypatch, name, units, dtype, tensor_cores
):
    # with less shared memory, blocks compute fewer rows at once and have fewer loads in flight
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", tensor_cores)
    case = next(case for case in CASES if case.operation == name)
    arguments, _ = example(case, SHAPES[-1], dtype)
    force_algorithm(monkeypatch, "persistent", units, groups=2)
    results = []
    for architecture in ("sm_90", "sm_80"):
        emulate_architecture(architecture)
        results.append(frozen(run(case, arguments)))
    assert results[0] == results[1]


@pytest.mark.parametrize(("dtype", "tensor_cores"), [("float32", "1"), ("float32", "")], ids=["tf32", "half split"])
def test_the_tolerance_detects_products_without_the_low_halves(recurrence_device, monkeypatch, dtype, tensor_cores):
    """Neither rounded products nor split ones without one factor's low halves are within the tolerance."""
    original_source = compile.source
    removed_statement = "multiply_matrices(sums[i][j], low[i], first.high, second.high);"
    assert original_source("rnn.cu").count(removed_statement) == 1
    monkeypatch.setenv("CAPGPU_TENSOR_CORES", tensor_cores)
    monkeypatch.setattr(compile, "source", lambda file: original_source(file).replace(removed_statement, ""))
    compile.forget()
    force_algorithm(monkeypatch, "persistent", 16, groups=2)
    case = next(case for case in CASES if case.operation == "rnn_forward")
    arguments, expected = example(case, SHAPES[-2], dtype)
    actual, _ = run(case, arguments)
    compile.forget()
    assert distance(actual, expected[0]) > 2 * TOLERANCE[dtype]["forward"]
