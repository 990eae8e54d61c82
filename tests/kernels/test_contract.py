"""Every operation, in every variant, dtype, backend and odd size, against plain loops in float64."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

from capgpu.kernels import RowGroups
from capgpu.kernels.cells import CELLS, cell_of_weights
from capgpu.kernels.reference import OPERATIONS
from oracles.halves import HALVES, loss_or
from oracles.kernel_cases import EXTENTS, KERNEL_CASES, OVERWRITABLE, Extents, example
from oracles.numbers import TOLERANCE, distance
from oracles.snapshots import frozen

INDICES = ("rows", "targets", "index", "order", "pictures", "parents")
RAGGED = Extents((6, 6, 5, 2, 1), 9, 11)


def run(backend, case, arguments, bring=None):
    """Call an operation on copies of host arguments; batch sizes are the host's business everywhere."""
    bring = bring or backend.asarray
    moved_arguments = {
        name: value if name == "batch_sizes" else brought(value, bring) for name, value in arguments.items()
    }
    dtype = next(v.dtype for v in arguments.values() if isinstance(v, np.ndarray) and v.dtype.kind not in "iu")
    results = getattr(backend.kernels(dtype), case.operation)(**moved_arguments)
    return moved_arguments, results if isinstance(results, tuple) else (results,)


def brought(value, bring):
    if isinstance(value, np.ndarray):
        return bring(value.copy())
    return RowGroups(*(bring(part) for part in value)) if isinstance(value, RowGroups) else value


def check(backend, case, dtype, arguments, expected, bring=None):
    _, results = run(backend, case, arguments, bring)
    assert len(results) == len(expected)
    for actual, expected_array, tolerance_kind in zip(results, expected, case.kinds, strict=True):
        assert (actual is None) == (expected_array is None)
        if expected_array is not None:
            assert backend.to_numpy(actual).dtype == loss_or(dtype, actual)
            assert distance(backend.to_numpy(actual), expected_array) < TOLERANCE[dtype][tolerance_kind]


def test_every_operation_has_a_case():
    # held by test_update_contract.py (lists of arrays), test_pack_captions.py (host integers) and the model's tests
    tested_in_other_files = {"adam_update", "momentum_update", "gradient_norm", "column_sums", "pack_captions"}
    # and by test_top_k.py (what it returns are words, too)
    tested_in_other_files |= {"caption_batch", "greedy_captions", "top_words", "draw_words"}
    assert {case.operation for case in KERNEL_CASES} | tested_in_other_files == set(OPERATIONS)


def test_no_two_cells_have_equally_many_gates():
    for name, shape in CELLS.items():
        assert cell_of_weights(np.ones((5, shape.n_gates * 5))) == name


@pytest.mark.parametrize("extents", EXTENTS, ids=range(len(EXTENTS)))
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
def test_unaligned_and_ragged_batches_agree_with_the_loops(backend, case, dtype, extents):
    check(backend, case, dtype, *example(case, extents, dtype))


@pytest.mark.nightly(unless=lambda p: p.extents is RAGGED)
@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("extents", [RAGGED, EXTENTS[0], EXTENTS[2]], ids=["ragged", "one", "wide"])
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
def test_half_precision_agrees_with_the_loops(backend, case, dtype, extents):
    check(backend, case, dtype, *example(case, extents, dtype))


@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
@hypothesis.given(
    lengths=strategies.lists(strategies.integers(1, 5), min_size=1, max_size=6),
    size=strategies.integers(1, 8),
    words=strategies.integers(1, 9),
    seed=strategies.integers(0),
)
def test_random_batches_agree_with_the_loops(backend, case, lengths, size, words, seed):
    extents = Extents(tuple(sorted(lengths, reverse=True)), size, words)
    arguments = case.arguments(np.random.default_rng(seed), extents, "float64")
    check(backend, case, "float64", arguments, case.plain(arguments, extents))


@pytest.mark.nightly(unless=lambda p: p.backend != "cuda" or not p.case.operation.startswith("lstm"))
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_large_batch_agrees_with_the_loops(backend, case, dtype):
    extents = Extents((5,) * 20 + (2,) * 45 + (1,) * 5, 72, 130)
    check(backend, case, dtype, *example(case, extents, dtype))


@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_strided_arrays_are_accepted(backend, case, dtype):
    # what is the kernel's to overwrite is never read-only
    bring = backend.asarray if case.operation in OVERWRITABLE else backend.strided
    check(backend, case, dtype, *example(case, RAGGED, dtype), bring)


@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_arguments_are_not_changed(backend, case, dtype):
    arguments, _ = example(case, RAGGED, dtype)
    moved_arguments, _ = run(backend, case, arguments)
    overwritable = OVERWRITABLE.get(case.operation, set())
    for name in arguments.keys() - overwritable:
        assert frozen(moved_arguments[name]) == frozen(arguments[name]), name


@pytest.mark.nightly(unless=lambda p: p.backend != "cuda" or not p.case.operation.startswith("lstm"))
@pytest.mark.parametrize("case", KERNEL_CASES, ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_two_runs_give_the_same_bits(backend, case, dtype):
    extents = Extents((7,) * 13 + (3,) * 20, 33, 65)
    arguments, _ = example(case, extents, dtype)
    assert frozen(run(backend, case, arguments)[1]) == frozen(run(backend, case, arguments)[1])


@pytest.mark.parametrize("case", [case for case in KERNEL_CASES if "decode_step" not in case.operation], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_no_rows_give_empty_results(backend, case, dtype):
    extents = Extents((), 3, 5)
    check(backend, case, dtype, *example(case, extents, dtype))


@pytest.mark.parametrize("dtype", ["int32", "int64"])
def test_indices_may_be_int32_or_int64(backend, dtype):
    for case in KERNEL_CASES:
        arguments, expected = example(case, RAGGED, "float64")
        indices = {
            n: v.astype(dtype)
            for n, v in arguments.items()
            if n in INDICES and isinstance(v, np.ndarray) and v.dtype.kind == "i"
        }
        check(backend, case, "float64", {**arguments, **indices}, expected)
