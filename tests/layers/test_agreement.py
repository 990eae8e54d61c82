"""Every layer, dtype, backend and odd size against the float64 oracle."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

import capgpu
from oracles.halves import HALVES, loss_or
from oracles.layer_cases import LAYERS, ODD_SIZES, Sizes
from oracles.numbers import TOLERANCE, distance

DTYPES = ("float32", "float64")
extents = strategies.integers(1, 6)


def results(case, arguments, seed):
    """Run both passes on the arrays of the backend in force, from host arguments."""
    device_arguments = {name: capgpu.asarray(value) for name, value in arguments.items()}
    outputs, cache = case.forward(**device_arguments)
    return outputs, case.backward(upstream_of(outputs, seed, capgpu.asarray), cache)


def upstream_of(outputs, seed, asarray):
    """Draw an upstream gradient for each output; that of a loss is one."""
    random = np.random.default_rng(seed)
    return tuple(
        asarray(random.uniform(-1, 1, output.shape).astype(np.float16) if output.ndim else 1.0, output.dtype)
        for output in outputs
    )


def check(backend, case, arguments, dtype):
    """Compare outputs with the plain loops, gradients with the reference in float64."""
    backend_arguments = {name: backend.asarray(value) for name, value in arguments.items()}
    outputs, cache = case.forward(**backend_arguments)
    upstream = upstream_of([backend.to_numpy(output) for output in outputs], 1, lambda a, _: np.asarray(a, dtype))
    gradients = case.backward(tuple(backend.asarray(u) for u in upstream), cache)

    exact = {n: v.astype(np.float64) if v.dtype == dtype else v for n, v in arguments.items()}
    expected = case.plain(**exact)
    expected = expected if isinstance(expected, tuple) else (expected,)
    for actual, expected_array in zip(outputs, expected, strict=True):
        assert backend.to_numpy(actual).dtype == loss_or(dtype, actual)
        assert distance(backend.to_numpy(actual), expected_array) < TOLERANCE[dtype]["forward"]

    with capgpu.use_backend("numpy"):
        _, exact_cache = case.forward(**exact)
        expected = case.backward(tuple(u.astype(np.float64) for u in upstream), exact_cache)
    for name, actual, expected_array in zip(case.floats(arguments), gradients, expected, strict=True):
        assert backend.to_numpy(actual).dtype == dtype, name
        assert distance(backend.to_numpy(actual), expected_array) < TOLERANCE[dtype]["gradient"], name


@pytest.mark.parametrize("sizes", ODD_SIZES, ids=lambda sizes: "-".join(map(str, sizes)))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_unaligned_sizes_agree_with_the_oracle(backend, random, case, dtype, sizes):
    check(backend, case, case.arguments(random, sizes, dtype), dtype)


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
def test_half_precision_agrees_with_the_oracle(backend, random, case, dtype):
    check(backend, case, case.arguments(random, Sizes(3, 4, 5, 6, 7), dtype), dtype)


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
@hypothesis.given(
    sizes=strategies.builds(Sizes, extents, extents, extents, extents, extents), seed=strategies.integers(0)
)
def test_random_shapes_agree_with_the_oracle(backend, case, sizes, seed):
    check(backend, case, case.arguments(np.random.default_rng(seed), sizes), "float64")


@pytest.mark.parametrize("case", LAYERS, ids=lambda case: case.name)
@pytest.mark.parametrize("dtype", DTYPES)
def test_strided_arrays_are_accepted(backend, random, case, dtype):
    arguments = case.arguments(random, Sizes(3, 4, 5, 6, 7), dtype)
    outputs, cache = case.forward(**{name: backend.asarray(value) for name, value in arguments.items()})
    upstream = upstream_of([backend.to_numpy(o) for o in outputs], 2, lambda a, d: np.asarray(a, dtype=d))
    gradients = case.backward(tuple(backend.asarray(u) for u in upstream), cache)
    gapped, cache = case.forward(**{name: backend.strided(value) for name, value in arguments.items()})
    gapped_gradients = case.backward(
        tuple(backend.strided(u) if u.ndim else backend.asarray(u) for u in upstream), cache
    )
    for actual, expected in zip((*gapped, *gapped_gradients), (*outputs, *gradients), strict=True):
        assert distance(backend.to_numpy(actual), backend.to_numpy(expected)) < TOLERANCE[dtype]["forward"]
