"""Dropout on the device: the mask that every other backend draws, bit by bit."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.kernels import Dropout
from capgpu.kernels.cuda import compile
from capgpu.kernels.cuda.array_checks import NULL
from capgpu.kernels.cuda.device_calls import counting
from capgpu.kernels.cuda.dropout import StoredDropout, drop_into
from capgpu.random import dropout_mask, mask_rule

DTYPES = ("float16", "float32", "float64")
#: One element, around a pack, around a warp of packs, around blocks of threads with packs of 2, 4 and 8.
SIZES = (1, 3, 4, 5, 31, 127, 128, 129, 511, 512, 1023, 1025, 2049, 4100)


def draw(size, dtype):
    values = np.random.default_rng(size).standard_normal(size).astype(dtype)
    values[::7] *= 0
    return values


def bits(array):
    return array.view(f"u{array.itemsize}")


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_results_are_the_products_with_the_mask_of_the_host_bit_by_bit(device, dtype, size):
    values = draw(size, dtype)
    for key, rate in ((0, 0.3), (2**64 - 1, 0.5), (-7, 0.999)):
        out = device.empty(size, dtype)
        drop_into(device.asarray(values), Dropout(key, rate), out)
        expected = values * dropout_mask(key, rate, values.shape, values)
        assert (bits(out.get()) == bits(expected)).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mask_depends_on_the_shape_only_and_dropout_works_in_place(device, dtype):
    values = draw(33 * 21, dtype).reshape(33, 21)
    dev_array = device.asarray(values)
    with counting() as launches:
        drop_into(dev_array, Dropout(5, 0.4), dev_array)
    expected = values * dropout_mask(5, 0.4, (33, 21), values)
    assert (bits(dev_array.get()) == bits(expected)).all()
    assert launches == ["dropout"]


@pytest.mark.parametrize("width", [1, 3, 8, 37])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_stored_key_draws_the_rows_of_the_mask_that_it_names(device, dtype, width):
    values = draw(50 * width, dtype).reshape(50, width)
    rows = np.sort(np.random.default_rng(1).permutation(60)[:50]).astype(np.int32)
    rule = mask_rule(5, 0.4, 60 * width)
    words = device.asarray(np.array([rule.first, rule.second], np.uint32))
    out = device.empty(values.shape, dtype)
    drop_into(device.asarray(values), StoredDropout(0, 0.4, device.asarray(rows), None, words), out)
    expected = values * dropout_mask(5, 0.4, (60, width), values)[rows]
    assert (bits(out.get()) == bits(expected)).all()


@pytest.mark.parametrize(("odd_in", "odd_out"), [(1, 0), (0, 1), (1, 1)])
def test_unaligned_arrays_give_the_mask_of_aligned_ones(device, odd_in, odd_out):
    values = draw(1030, "float32")
    dev_array = device.asarray(np.append(np.zeros(odd_in, np.float32), values))[odd_in:]
    out = device.empty(1030 + odd_out, np.float32)[odd_out:]
    drop_into(dev_array, Dropout(5, 0.4), out)
    assert (bits(out.get()) == bits(values * dropout_mask(5, 0.4, (1030,), values))).all()


def test_dropped_nonfinite_elements_stay_nonfinite(device):
    values = np.full(64, np.nan, np.float32)
    out = device.empty(64, np.float32)
    drop_into(device.asarray(values), Dropout(5, 0.9), out)
    assert np.isnan(out.get()).all()


def test_bfloat16_has_the_same_mask(device):
    values = np.full(300, 0x3F80, np.uint16)  # 1.0
    out = device.empty(300, np.uint16)
    rule = mask_rule(5, 0.5, 300)
    words = [np.uint32(word) for word in (300, rule.first, rule.second, rule.threshold)]
    arguments = device.asarray(values), out, *words, np.float32(rule.factor), NULL, NULL, np.uint32(300)
    compile.kernel("dropout", "bfloat16")(1, 256, arguments)
    expected = dropout_mask(5, 0.5, (300,), np.empty(0, np.float32))
    assert ((out.get().astype(np.uint32) << 16).view(np.float32) == expected).all()


def test_an_array_without_elements_launches_nothing(device):
    with counting() as launches:
        drop_into(device.empty((0, 5)), Dropout(5, 0.4), device.empty((0, 5)))
    assert launches == []


def test_positions_beyond_32_bits_are_refused(device):
    huge = device.empty(1, np.float32)

    class Huge:
        dtype, size = huge.dtype, 2**32

    with counting() as launches, pytest.raises(OverflowError):
        drop_into(Huge(), Dropout(5, 0.4), Huge())
    assert launches == []
