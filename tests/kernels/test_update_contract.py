"""The update rules of the contract, over many parameters at once, against plain float64 arithmetic."""

from __future__ import annotations

import numpy as np
import pytest

from oracles.halves import ALL, sums
from oracles.numbers import TOLERANCE, distance
from oracles.snapshots import frozen

SHAPES = [((1,),), ((3, 7), (33,)), ((7, 33), (1, 1), (1025,), (3, 700))]
LARGE = ((400, 300), (7,), (130, 33))


def unless_strict(backend, dtype):
    if backend.name == "strict" and sums(dtype) != dtype:
        pytest.skip("the array API standard has no half types")


def draw(shapes, dtype, seed):
    random = np.random.default_rng(seed)
    return [random.standard_normal(shape).astype(dtype) for shape in shapes]


def adam_settings(count):
    random = np.random.default_rng(9)
    rows = []
    for t in range(3, 3 + count):
        beta1, beta2 = random.uniform(0.5, 0.95), random.uniform(0.9, 0.999)
        rest1, rest2, correction = 1 - beta1, 1 - beta2, 1 / np.sqrt(1 - beta2**t)
        rows.append([random.uniform(0.001, 0.1), beta1, rest1, beta2, rest2, correction, 1e-8, 0.97])
    return np.array(rows)


def plain_adam(w, g, m, v, row, scale):
    step, beta1, rest1, beta2, rest2, correction, epsilon, decay = row
    w, g, m, v = (a.astype(np.float64) for a in (w, g, m, v))
    m = beta1 * m + rest1 * scale * g
    v = beta2 * v + rest2 * (scale * g) ** 2
    return decay * w - step * m / (np.sqrt(v) * correction + epsilon), m, v


@pytest.mark.parametrize("shapes", [*SHAPES, LARGE], ids=str)
@pytest.mark.parametrize("dtype", ALL)
def test_adam_updates_all_parameters_as_one_by_one(backend, dtype, shapes):
    unless_strict(backend, dtype)
    ws, gs = (draw(shapes, dtype, seed) for seed in range(2))
    ms, vs = draw(shapes, sums(dtype), 2), [np.square(a) for a in draw(shapes, sums(dtype), 3)]
    settings = adam_settings(len(shapes))
    on_backend = [[backend.asarray(a.copy()) for a in arrays] for arrays in (ws, gs, ms, vs)]
    before = frozen([backend.to_numpy(a) for a in on_backend[0] + on_backend[1]])
    results = backend.kernels(dtype).adam_update(*on_backend, settings, 0.25)
    assert frozen([backend.to_numpy(a) for a in on_backend[0] + on_backend[1]]) == before
    kinds = (dtype, sums(dtype), sums(dtype))
    for k in range(len(shapes)):
        expected = plain_adam(ws[k], gs[k], ms[k], vs[k], settings[k], 0.25)
        for actual, expected_array, kind in zip(results, expected, kinds, strict=True):
            updated = backend.to_numpy(actual[k])
            assert updated.dtype == kind
            assert updated.shape == shapes[k]
            assert distance(updated, expected_array) < TOLERANCE[kind]["forward"]


@pytest.mark.parametrize("momentum", [True, False])
@pytest.mark.parametrize("shapes", [*SHAPES, LARGE], ids=str)
@pytest.mark.parametrize("dtype", ALL)
def test_descent_updates_all_parameters_as_one_by_one(backend, dtype, shapes, momentum):
    unless_strict(backend, dtype)
    ws, gs = (draw(shapes, dtype, seed) for seed in range(2))
    vs = draw(shapes, sums(dtype), 2)
    settings = np.array([[0.1 * (k + 1), 0.9 - 0.1 * k] for k in range(len(shapes))])
    on_backend = [[backend.asarray(a.copy()) for a in arrays] for arrays in (ws, gs, vs)]
    before = frozen([backend.to_numpy(a) for a in on_backend[0] + on_backend[1]])
    velocities = on_backend[2] if momentum else None
    updated, speeds = backend.kernels(dtype).momentum_update(on_backend[0], on_backend[1], velocities, settings, 0.5)
    assert frozen([backend.to_numpy(a) for a in on_backend[0] + on_backend[1]]) == before
    for k, (rate, factor) in enumerate(settings):
        speed = (factor * vs[k].astype(np.float64) if momentum else 0.0) - rate * 0.5 * gs[k].astype(np.float64)
        assert backend.to_numpy(updated[k]).dtype == dtype
        assert distance(backend.to_numpy(updated[k]), ws[k].astype(np.float64) + speed) < TOLERANCE[dtype]["forward"]
        if momentum:
            assert backend.to_numpy(speeds[k]).dtype == sums(dtype)
            assert distance(backend.to_numpy(speeds[k]), speed) < TOLERANCE[sums(dtype)]["forward"]
    assert momentum or speeds is None


@pytest.mark.parametrize("shapes", [*SHAPES, LARGE], ids=str)
@pytest.mark.parametrize("dtype", ALL)
def test_the_norm_is_that_of_all_gradients_together(backend, dtype, shapes):
    unless_strict(backend, dtype)
    gs = draw(shapes, dtype, 5)
    expected = np.linalg.norm(np.concatenate([a.astype(np.float64).ravel() for a in gs]))
    for part in (0.5, 2.0):
        moved_grads = [backend.asarray(a) for a in gs]
        norm, factor = map(backend.to_numpy, backend.kernels(dtype).gradient_norm(moved_grads, part * float(expected)))
        assert norm.dtype == factor.dtype == sums(dtype)
        assert distance(norm, expected) < TOLERANCE[sums(dtype)]["forward"]
        assert factor == 1 if part > 1 else distance(factor, part) < TOLERANCE[sums(dtype)]["forward"]


@pytest.mark.parametrize("dtype", ALL)
def test_a_nonfinite_norm_gives_a_nonfinite_factor(backend, dtype):
    unless_strict(backend, dtype)
    for bad, expected in ((np.nan, np.nan), (np.inf, 0.0)):
        norm, factor = backend.kernels(dtype).gradient_norm([backend.asarray(np.array([1, bad, 2], dtype))], 1.0)
        assert np.array_equal(backend.to_numpy(norm), bad, equal_nan=True)
        assert np.array_equal(backend.to_numpy(factor), expected, equal_nan=True)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (33, 1), (7, 33), (0, 3), (300, 1025)], ids=str)
@pytest.mark.parametrize("dtype", ALL)
def test_columns_are_summed(backend, dtype, shape):
    unless_strict(backend, dtype)
    rows = draw([shape], dtype, 6)[0]
    sums = backend.kernels(dtype).column_sums(backend.asarray(rows))
    assert backend.to_numpy(sums).dtype == dtype
    assert distance(backend.to_numpy(sums), rows.astype(np.float64).sum(axis=0)) < TOLERANCE[dtype]["forward"]
