"""Update rules on the device: many parameters, odd memory, factors that never leave the device, and full memory."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.kernels.cuda import KERNELS, optimizer
from capgpu.kernels.cuda.array_checks import DeviceMemoryError
from capgpu.kernels.cuda.device_calls import counting
from capgpu.kernels.reference import KERNELS as REFERENCE
from oracles.device_memory import little_memory
from oracles.halves import ALL, HALVES, sums
from oracles.numbers import TOLERANCE, distance
from oracles.snapshots import frozen
from simulators import cupy_standin

ADAM = [0.01, 0.9, 0.1, 0.99, 0.01, 1.2, 1e-8, 0.97, 0.0][:8]
SIZES = (1, 3, 4095, 4096, 4097, 0, 33, 9000)


def draw(sizes, dtype, seed):
    random = np.random.default_rng(seed)
    return [random.standard_normal(size).astype(dtype) for size in sizes]


def arguments(sizes, dtype):
    ws, gs = (draw(sizes, dtype, seed) for seed in range(2))
    return ws, gs, draw(sizes, sums(dtype), 2), [np.square(v) for v in draw(sizes, sums(dtype), 3)]


@pytest.mark.parametrize("count", [1, 8, 15, 16, 17, 40])
def test_sixteen_parameters_take_one_launch(device, count):
    sizes = [SIZES[k % len(SIZES)] + k for k in range(count)]
    host = arguments(sizes, "float32")
    settings = np.array([ADAM] * count)
    with counting() as launches:
        actual = KERNELS.adam_update(*([device.asarray(a) for a in arrays] for arrays in host), settings, 0.5)
    assert launches == ["adam"] * -(-count // optimizer.TENSORS)
    expected = REFERENCE.adam_update(*host, settings, 0.5)
    for dev_arrays, expected_arrays in zip(actual, expected, strict=True):
        for a, b in zip(dev_arrays, expected_arrays, strict=True):
            assert distance(a.get(), b) < 1e-6


@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("rule", ["adam", "momentum", "sgd"])
def test_unaligned_parameters_are_updated_like_aligned_ones(device, dtype, rule):
    host = arguments((4100, 9), dtype)
    shifted = [[device.asarray(np.append(a[:1], a))[1:] for a in arrays] for arrays in host]
    if rule == "adam":
        actual = KERNELS.adam_update(*shifted, np.array([ADAM] * 2), 1.0)
        expected = REFERENCE.adam_update(*host, np.array([ADAM] * 2), 1.0)
    else:
        velocities = {"momentum": 2, "sgd": None}[rule]
        rates = np.array([[0.1, 0.9], [0.2, 0.5]])
        actual, expected = (
            k.momentum_update(a[0], a[1], None if velocities is None else a[velocities], rates, 1.0)
            for k, a in ((KERNELS, shifted), (REFERENCE, host))
        )
    for dev_arrays, here in zip(actual, expected, strict=True):
        for a, b in zip(dev_arrays or [], here or [], strict=True):
            assert distance(a.get(), b) < TOLERANCE[dtype]["forward"]


@pytest.mark.parametrize("dtype", ALL)
def test_the_gradient_factor_can_be_a_device_array(device, dtype):
    host = arguments((33, 700), dtype)
    dev_arrays = [[device.asarray(a.copy()) for a in arrays] for arrays in host]
    with cupy_standin.forbid_synchronisation():
        _, factor = KERNELS.gradient_norm(dev_arrays[1], 3.0)
        actual = KERNELS.adam_update(*dev_arrays, np.array([ADAM] * 2), factor)
    expected = REFERENCE.adam_update(*host, np.array([ADAM] * 2), REFERENCE.gradient_norm(host[1], 3.0)[1])
    for a, b in zip(actual[0], expected[0], strict=True):
        assert distance(a.get(), b) < TOLERANCE[dtype]["forward"]


def test_moments_are_updated_in_place_and_parameters_are_new_arrays(device):
    dev_arrays = [[device.asarray(a) for a in arrays] for arrays in arguments((33,), "float32")]
    (w,), (m,), (v,) = KERNELS.adam_update(*dev_arrays, np.array([ADAM]), 1.0)
    assert (m.data.ptr, v.data.ptr) == (dev_arrays[2][0].data.ptr, dev_arrays[3][0].data.ptr)
    assert w.data.ptr != dev_arrays[0][0].data.ptr


def test_a_large_sum_of_squares_keeps_its_digits(device):
    values = np.full(3_000_000, 0.1, np.float32)
    norm = float(KERNELS.gradient_norm([device.asarray(values)], 1.0)[0])
    assert abs(norm / np.linalg.norm(values.astype(np.float64)) - 1) < 1e-7


@pytest.mark.parametrize("dtype", HALVES)
def test_moments_of_half_precision_parameters_are_kept_in_float32(device, dtype):
    # 0.001 g^2 is 1e-9, below float16's least number; and a thousandth of the mean, less than bfloat16 resolves
    w, g = (device.asarray(np.full(9, value, dtype)) for value in (1.0, 1e-3))
    m, v = device.zeros(9, "float32"), device.asarray(np.full(9, 5e-6, "float32"))
    for _ in range(100):
        (w,), (m,), (v,) = KERNELS.adam_update(
            [w], [g], [m], [v], np.array([[1e-3, 0.9, 0.1, 0.999, 1e-3, 1, 1e-8, 1]]), 1
        )
    square = float(np.array(1e-3, dtype)) ** 2
    assert w.dtype == dtype
    assert distance(v.get(), np.full(9, square + (5e-6 - square) * 0.999**100)) < 1e-5


def test_the_norm_of_float16_gradients_leaves_its_range(device):
    values = np.full(400, 4e4, "float16")
    norm, factor = KERNELS.gradient_norm([device.asarray(values)], 1.0)
    assert norm.dtype == factor.dtype == np.float32
    assert abs(float(norm) / np.linalg.norm(values.astype(np.float64)) - 1) < 1e-6
    assert abs(float(norm) * float(factor) - 1) < 1e-6


def test_an_update_without_memory_changes_no_parameter(device):
    dev_arrays = [[device.asarray(a) for a in arrays] for arrays in arguments((5000, 7000), "float32")]
    before_update = frozen(dev_arrays)
    message = r"too little memory for the updated parameters: 28,000 bytes, shape \(7000,\)"
    with little_memory(device, 21_000), pytest.raises(DeviceMemoryError, match=message):
        KERNELS.adam_update(*dev_arrays, np.array([ADAM] * 2), 1.0)
    assert frozen(dev_arrays) == before_update


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rule", ["adam", "momentum"])
def test_settings_on_the_device_give_the_bits_of_settings_by_value_in_place_too(device, dtype, rule):
    sizes = [33, 4099] * 9  # two launches
    random = np.random.default_rng(7)
    settings = np.array([ADAM] * len(sizes)) * random.uniform(0.5, 1, (len(sizes), 1))
    results = []
    for in_place in (settings, device.asarray(settings.astype(dtype))):
        w, g, m, v = ([device.asarray(a) for a in arrays] for arrays in arguments(sizes, dtype))
        optimizer.launch_update(rule, (w, g, m, v if rule == "adam" else None, w), in_place, 0.5)
        results.append(frozen((w, m, v)))
    assert results[0] == results[1]
