"""What stands for PTX in the emulator, and, where there is a device, the PTX itself: rounding, and copies under way."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.kernels.cuda import compile, constants
from capgpu.kernels.cuda.kernel_registry import compiler_options

HEADER = compile._numbered("common.cuh")
OPTIONS = (*compiler_options("spin.cu", "float32"), "-DTENSOR_CORES=1")


def launch(device, code, *arrays):
    if compile.device_limits().compute_capability < (8, 0):
        pytest.skip("no tensor cores that take TF32")
    kernel = device.RawModule(code=HEADER + code, options=OPTIONS).get_function("f")
    dev_arrays = [device.asarray(array) for array in arrays]
    kernel((1,), (32,), tuple(dev_arrays))
    return [array.get() for array in dev_arrays]


def test_tf32_keeps_ten_bits_rounded_to_nearest_and_ties_away_from_zero(device):
    random = np.random.default_rng(0)
    values = np.concatenate([random.standard_normal(80) * 10.0 ** np.arange(-20, 20).repeat(2), [0, -0.0, 1 + 2**-11]])
    ties = (1 + (np.arange(13) + 0.5) / 1024) * np.where(np.arange(13) % 2, -1, 1)
    x = np.concatenate([values, ties]).astype(np.float32)
    code = """
    extern "C" __global__ void f(const float* x, float* y) {
        for (int i = threadIdx.x; i < 96; i += 32)
            y[i] = __uint_as_float(nearest_tf32(__float_as_uint(x[i])) & ~0x1fffu);
    }"""
    _, actual = launch(device, code, x, np.empty_like(x))
    fraction, exponent = np.frexp(np.float64(x))
    expected = np.ldexp(np.copysign(np.floor(np.abs(fraction) * 2**11 + 0.5), x), exponent - 11)
    np.testing.assert_array_equal(actual, np.float32(expected))
    assert (np.signbit(actual) == np.signbit(x)).all()


def test_finite_numbers_are_rounded_to_finite_ones_and_nan_stays_nan(device):
    largest = 0x7F7FE000  # of TF32
    cases = {
        **dict.fromkeys((0xFFFFFFFE, 0x7FFFFFFF, 0x7F800001, 0x7FC00000, 0xFF800001), 0x7FC00000),  # each NaN
        **{
            0x7F800000: largest,
            0xFF800000: 0x80000000 | largest,
            0x7F7FFFFF: largest,
            0xFF7FF000: 0x80000000 | largest,
        },
        **{word: word for word in (largest, 0x80000000 | largest, 0, 0x80000000, 0x3F800000, 1)},
    }
    x = np.resize(np.array(list(cases), np.uint32), 32).view(np.float32)
    code = """
    extern "C" __global__ void f(const float* x, unsigned* sound, float* rounded) {
        sound[threadIdx.x] = bounded_tf32(__float_as_uint(x[threadIdx.x]));
        rounded[threadIdx.x] = __uint_as_float(nearest_tf32(sound[threadIdx.x]) & ~0x1fffu);
    }"""
    _, sound, rounded = launch(device, code, x, np.zeros(32, np.uint32), np.zeros(32, np.float32))
    np.testing.assert_array_equal(sound, np.resize(np.array(list(cases.values()), np.uint32), 32))
    assert (np.isnan(rounded) == np.isnan(x)).all()
    assert not np.isinf(rounded).any()


@pytest.mark.parametrize("name", ["sigmoid", "hyperbolic_tangent"])
def test_sigmoid_and_tanh_are_within_four_units_in_the_last_place(device, name):
    random = np.random.default_rng(0)
    inputs = random.standard_normal(4096) * 10.0 ** random.uniform(-6, 2, 4096)
    x = np.concatenate([inputs, random.uniform(0.5, 0.6, 500), [0, -0.0, np.inf, -np.inf, np.nan, 3e38, 1e-40]])
    x = np.resize(x, 4608).astype(np.float32)
    code = """
    extern "C" __global__ void f(const float* x, float* y) {
        for (int i = threadIdx.x; i < 4608; i += 32) y[i] = FUNCTION(x[i]);
    }""".replace("FUNCTION", name)
    _, actual = launch(device, code, x, np.empty_like(x))
    exact = np.float64(x)
    with np.errstate(over="ignore"):
        expected = np.tanh(exact) if name == "hyperbolic_tangent" else 1 / (1 + np.exp(-exact))
    # the exponential of a large negative number is that of a rounded one
    unit = np.spacing(np.maximum(np.abs(expected), 0.125 if name == "sigmoid" else 0).astype(np.float32))
    not_nan = ~np.isnan(x)
    assert np.isnan(actual[~not_nan]).all()
    assert (np.abs(actual[not_nan] - expected[not_nan]) <= 4 * unit[not_nan] + 1e-37).all()
    assert (np.signbit(actual[not_nan]) == np.signbit(np.float32(expected[not_nan]))).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_an_asynchronous_copy_reads_as_nan_before_it_is_waited_for(device, emulator, dtype):
    code = """
    extern "C" __global__ void f(const real* x, float* before, float* after) {
        DYNAMIC_SHARED(real, tile);
        real* mine = tile + threadIdx.x * PACK;
        copy_16_bytes(mine, x + threadIdx.x * PACK, true);
        end_copies();
        for (int i = 0; i < PACK; ++i) before[threadIdx.x * PACK + i] = (float)to_acc(mine[i]);
        wait_for_copies<0>();
        for (int i = 0; i < PACK; ++i) after[threadIdx.x * PACK + i] = (float)to_acc(mine[i]);
    }"""
    options = compiler_options("spin.cu", dtype)
    count = 512 // constants.real_size(dtype)
    stored = np.uint16 if dtype == "bfloat16" else dtype
    x = device.asarray(np.full(count, 0x3F80 if dtype == "bfloat16" else 1, stored))
    before, after = device.zeros(count, np.float32), device.zeros(count, np.float32)
    kernel = device.RawModule(code=HEADER + code, options=options).get_function("f")
    kernel((1,), (32,), (x, before, after), shared_mem=512)
    assert np.isnan(before.get()).all()
    assert (after.get() == 1).all()
