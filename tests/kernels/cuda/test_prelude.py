"""What stands for PTX in the emulator, and, where there is a device, the PTX itself: rounding, and copies under way."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.kernels.cuda import constants, module
from capgpu.kernels.cuda.catalogue import compiler_options

PRELUDE = module._numbered("prelude.cuh")
OPTIONS = (*compiler_options("spin.cu", "float32"), "-DTENSOR_CORES=1")


def launch(device, code, *arrays):
    if module.device_limits().compute_capability < (8, 0):
        pytest.skip("no tensor cores that take TF32")
    kernel = device.RawModule(code=PRELUDE + code, options=OPTIONS).get_function("f")
    there = [device.asarray(array) for array in arrays]
    kernel((1,), (32,), tuple(there))
    return [array.get() for array in there]


def test_tf32_keeps_ten_bits_rounded_to_nearest_and_ties_away_from_zero(device):
    random = np.random.default_rng(0)
    values = np.concatenate([random.standard_normal(80) * 10.0 ** np.arange(-20, 20).repeat(2), [0, -0.0, 1 + 2**-11]])
    ties = (1 + (np.arange(13) + 0.5) / 1024) * np.where(np.arange(13) % 2, -1, 1)
    x = np.concatenate([values, ties]).astype(np.float32)
    code = """
    extern "C" __global__ void f(const float* x, float* y) {
        for (int i = threadIdx.x; i < 96; i += 32) y[i] = __uint_as_float(round_to_tf32(x[i]));
    }"""
    _, got = launch(device, code, x, np.empty_like(x))
    fraction, exponent = np.frexp(np.float64(x))
    want = np.ldexp(np.copysign(np.floor(np.abs(fraction) * 2**11 + 0.5), x), exponent - 11)
    np.testing.assert_array_equal(got, np.float32(want))
    assert (np.signbit(got) == np.signbit(x)).all()


def test_tf32_leaves_infinities_and_every_nan_what_they_are(device):
    bits = np.array([0x7F800000, 0xFF800000, 0xFFFFFFFF, 0x7F800001, 0x7FC00000, 0xFF800001], np.uint32)
    x = np.resize(bits, 32).view(np.float32)
    code = """
    extern "C" __global__ void f(const float* x, float* y) {
        y[threadIdx.x] = __uint_as_float(round_to_tf32(x[threadIdx.x]));
    }"""
    _, got = launch(device, code, x, np.zeros(32, np.float32))
    np.testing.assert_array_equal(got, x)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64"])
def test_a_copy_that_nobody_has_waited_for_is_nan_in_every_storage_type(device, emulator, dtype):
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
    kernel = device.RawModule(code=PRELUDE + code, options=options).get_function("f")
    kernel((1,), (32,), (x, before, after), shared_mem=512)
    assert np.isnan(before.get()).all()
    assert (after.get() == 1).all()
