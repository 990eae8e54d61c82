"""Products of factors rounded to bfloat16 (``precision="bf16"``): the rounding, every unit, every operation."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

import capgpu
from capgpu.kernels import kernels_for
from capgpu.kernels.cpu import bf16_gemm, bf16_microkernel
from capgpu.kernels.cpu.bf16_microkernel import available_units, unit
from capgpu.kernels.reference import KERNELS as REFERENCE
from capgpu.kernels.reference.precision import rounded
from capgpu.kernels.rounded import multiplying
from oracles.kernel_cases import KERNEL_CASES, Extents, example, usual_case
from oracles.numbers import distance
from oracles.pools import await_workers
from oracles.scenes import CELLS
from oracles.snapshots import frozen

#: Tiles, and what is left at their edges, of rows, columns and sums.
EXTENTS = [Extents((5, 4, 2), 7, 33), Extents((3,) * 33 + (2,) * 8 + (1,) * 5, 40, 70)]
#: Norm-wise, of results from factors with 8 significant bits, beside float64.
COARSE = {"forward": 1e-2, "gradient": 2e-2}
#: Norm-wise, beside the reference with rounded factors. A state that differs in its last bit can round to another
#: neighbour, so that what follows differs by as much as rounding changes it.
FINE = {"forward": 2e-3, "gradient": 5e-3}
CASES = [case for case in KERNEL_CASES if case.operation in multiplying()]


def by_bits(array):
    """Round to the nearest bfloat16, ties to even, by integer arithmetic."""
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32).astype(np.uint64)
    rounded_bits = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16 << 16
    return np.where(np.isnan(array), array, rounded_bits.astype(np.uint32).view(np.float32))


def numbers(random, *shape):
    return random.standard_normal(shape).astype(np.float32)


def test_rounding_is_to_nearest_even(backend, random):
    bits = random.integers(0, 2**32, 4000, dtype=np.uint32)
    ties = bits & 0xFFFF0000 | 0x8000
    values = np.concatenate([bits, ties]).view(np.float32)
    values = values[np.isfinite(values) & (np.abs(values) > 1e-30) & (np.abs(values) < 3.38e38)]
    values = np.concatenate([values, np.float32([0, np.inf, -np.inf, np.nan, 1e30, 3e38])])
    actual = backend.to_numpy(rounded(backend.asarray(values), "bf16"))
    np.testing.assert_array_equal(actual, by_bits(values))


@pytest.mark.parametrize("name", ["amx", "avx512_bf16", "software"])
def test_products_of_every_vector_unit_agree_with_the_reference(monkeypatch, name):
    if name not in available_units():
        pytest.skip(f"this processor, or Linux here, has no {name}")
    monkeypatch.setattr(bf16_gemm, "unit", lambda: unit(name))

    @hypothesis.given(
        m=strategies.integers(1, 70),
        n=strategies.integers(1, 70),
        k=strategies.one_of(strategies.integers(0, 70), strategies.integers(1020, 1060)),
        transposed=strategies.sampled_from([(False, False), (True, False), (False, True), (True, True)]),
        start=strategies.sampled_from(["nothing", "bias", "accumulate"]),
    )
    @hypothesis.settings(max_examples=30)
    def check(m, n, k, transposed, start):
        random = np.random.default_rng([m, n, k])
        a = numbers(random, *((k, m) if transposed[0] else (m, k)))
        b = numbers(random, *((n, k) if transposed[1] else (k, n)))
        bias, out = numbers(random, n) if start == "bias" else None, numbers(random, m, n)
        left, right = (by_bits(x).astype(np.float64) for x in (a, b))
        expected = (left.T if transposed[0] else left) @ (right.T if transposed[1] else right)
        expected += bias if start == "bias" else out if start == "accumulate" else 0
        options = {"transpose_a": transposed[0], "transpose_b": transposed[1], "accumulate": start == "accumulate"}
        bf16_gemm.product_into(out, a, b, bias, **options)
        assert distance(out, expected) < 2e-6

    check()


@pytest.mark.parametrize("name", ["amx", "avx512_bf16", "software"])
def test_every_vector_unit_keeps_nan(monkeypatch, name):
    if name not in available_units():
        pytest.skip(f"this processor, or Linux here, has no {name}")
    monkeypatch.setattr(bf16_gemm, "unit", lambda: unit(name))
    a, b, out = np.ones((3, 40), np.float32), np.ones((40, 5), np.float32), np.zeros((3, 5), np.float32)
    a[1, 7] = np.array(0x7FFFFFFF, np.uint32).view(np.float32)  # a NaN whose carry would make -0 of it
    a[2, 7] = np.inf
    bf16_gemm.product_into(out, a, b)
    assert (out[0] == 40).all()
    assert np.isnan(out[1]).all()
    assert np.isposinf(out[2]).all()


@pytest.mark.nightly(unless=lambda p: p.backend == "cpu" or p.case is usual_case(p.case.operation))
@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("extents", EXTENTS, ids=["small", "tiles"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_operations_agree_with_the_loops_and_the_reference(backend, case, extents):
    arguments, expected = example(case, extents, "float32")
    kernels = kernels_for(backend.asarray(np.zeros(1, np.float32)), "bf16")

    def brought(bring):
        return {
            name: bring(value.copy()) if isinstance(value, np.ndarray) and name != "batch_sizes" else value
            for name, value in arguments.items()
        }

    results, reference = (
        found if isinstance(found, tuple) else (found,)
        for found in (
            getattr(kernels, case.operation)(**brought(backend.asarray)),
            getattr(REFERENCE, case.operation)(**brought(np.asarray), precision="bf16"),
        )
    )
    for actual, expected_array, other, kind in zip(results, expected, reference, case.kinds, strict=True):
        assert (actual is None) == (expected_array is None)
        if expected_array is None:
            continue
        host = backend.to_numpy(actual)
        assert host.dtype == np.float32
        assert distance(host, expected_array) < COARSE[kind]
        if backend.name == "cpu":  # recurrences of `cuda` do not round
            assert distance(host, other) < FINE[kind]


@pytest.mark.parametrize("cell", CELLS)
def test_the_number_of_threads_changes_no_bit(shared_by, random, cell):
    words = {word: i for i, word in enumerate(["<NULL>", "<START>", "<END>", *map(str, range(67))])}
    captions = random.integers(0, 70, (40, 6))
    features = numbers(random, 40, 50)
    found = set()
    with capgpu.use_backend("cpu"):
        model = capgpu.CaptioningRNN(
            words, 50, 48, 70, cell, seed=1, precision="bf16", feature_dropout=0.2, output_dropout=0.2
        )
        for threads in (1, 2, 3):
            await_workers(shared_by(threads))
            loss, grads = model.loss(features, captions, dropout_key=3)
            found.add(tuple(map(frozen, (loss, *grads.values(), model.sample(features, 5)))))
    assert len(found) == 1


def test_dtypes_other_than_float32_are_refused_before_anything_is_computed(backend):
    for dtype in ("float64", "float16"):
        if backend.name == "strict" and dtype == "float16":
            continue
        with pytest.raises(TypeError, match=f"precision='bf16'.*expected dtype float32, got {dtype}"):
            kernels_for(backend.asarray(np.zeros(1, dtype)), "bf16")
    with pytest.raises(ValueError, match=r"precision: expected one of 'float32', 'bf16', got 'tf32'"):
        kernels_for(backend.asarray(np.zeros(1, "float32")), "tf32")
    x = backend.asarray(np.zeros((2, 2)))
    with pytest.raises(TypeError, match="expected dtype float32, got float64"):
        kernels_for(x).matmul(x, x, precision="bf16")


def test_no_instruction_is_used_that_numba_has_to_avoid(monkeypatch):
    monkeypatch.setattr(bf16_microkernel.config, "CPU_FEATURES", None)
    monkeypatch.setattr(bf16_microkernel.llvm, "get_host_cpu_features", lambda: {"avx512bf16": True})
    for enabled in (1, 0):
        monkeypatch.setattr(bf16_microkernel.config, "ENABLE_AVX", enabled)
        assert bf16_microkernel.rounds_in_hardware() == enabled
        assert ("avx512_bf16" in available_units.__wrapped__()) == enabled


def test_the_default_neither_imports_nor_compiles_any_of_it(in_new_process):
    code = """
import sys
import numpy as np, capgpu
words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "a": 3}
model = capgpu.CaptioningRNN(words, 3, 4, 4, "rnn", seed=0)
model.loss(np.ones((2, 3), np.float32), np.array([[1, 3, 2], [1, 2, 0]]))
model.sample(np.ones((2, 3), np.float32), 2)
print([name for name in sys.modules if name.endswith(("bf16_gemm", "bf16_pack", "bf16_recurrent"))])
from capgpu.kernels.cpu import symbols
print([symbol for symbol in symbols._addresses if "bf16" in symbol])
"""
    assert in_new_process(code, CAPGPU_BACKEND="cpu").split() == ["[]", "[]"]
