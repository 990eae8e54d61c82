"""Gathered and summed rows on the device: widths around packs and tiles, skewed indices, many matrices at once."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.kernels.cuda import KERNELS, embedding
from capgpu.kernels.cuda.device_calls import counting
from capgpu.kernels.cuda.workspace import workspace
from oracles.halves import ALL, HALVES
from oracles.numbers import TOLERANCE, distance

WIDTHS = (1, 2, 3, 7, 33, 64, 127, 128, 129, 260)


def draw(rows, width, dtype, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(dtype)


def summed(rows, index, count):
    out = np.zeros((count, rows.shape[1]))
    np.add.at(out, index, rows.astype(np.float64))
    return out


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ALL)
def test_rows_are_gathered(device, dtype, width):
    table, index = draw(9, width, dtype), np.array([8, 0, 0, 3, 8, 1, 2, 7, 5, 8, 4], dtype=np.int32)
    out = device.empty((11, width), dtype)
    embedding.gather_rows(device.asarray(table), device.asarray(index), out)
    assert (out.get() == table[index]).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("skew", ["even", "one", "some"])
def test_rows_are_summed_by_index(device, dtype, width, skew):
    random = np.random.default_rng(4)
    rows, count = draw(61, width, dtype), 13
    index = {"even": random.integers(0, count, 61), "one": np.full(61, 5), "some": random.integers(3, 5, 61)}[skew]
    actual = KERNELS.embedding_gradient(device.asarray(rows), device.asarray(index), count)
    assert distance(actual.get(), summed(rows, index, count)) < TOLERANCE[dtype]["forward"]


def test_given_and_computed_segments_give_the_same_bits(device):
    rows, index = draw(61, 33, "float32"), np.random.default_rng(4).integers(0, 13, 61).astype(np.int32)
    order = np.argsort(index, kind="stable").astype(np.int32)
    starts = np.searchsorted(index[order], np.arange(14)).astype(np.int32)
    out = [device.empty((13, 33), np.float32) for _ in range(2)]
    dev_arrays = [device.asarray(a) for a in (rows, index, order)]
    embedding.segment_sums(*dev_arrays, None, out[0])
    embedding.segment_sums(*dev_arrays, device.asarray(starts), out[1])
    assert (out[0].get() == out[1].get()).all()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("dtype", ALL)
@pytest.mark.parametrize("index", [[], [0], [7], [1, 4, 5], [0, 3, 7], list(range(8))], ids=str)
def test_rows_are_scattered_over_zeros_or_added(device, dtype, width, index):
    rows, index = draw(len(index), width, dtype), np.array(index, dtype=np.int32)
    for work in (embedding.scatter_rows_into, embedding.add_rows_into):
        before = draw(8, width, dtype, 1)
        out = device.asarray(before)
        with counting() as launches:
            work(device.asarray(rows), device.asarray(index), out)
        added = work is embedding.add_rows_into
        assert launches == [work.__name__.removesuffix("_into")] * (not added or index.size > 0)
        expected = before if added else np.zeros_like(before)
        expected[index] += rows
        assert (out.get() == expected).all()


def test_unaligned_rows_are_scattered_correctly(device):
    rows, index = draw(3, 8, "float32"), np.array([1, 4, 5], dtype=np.int32)
    before = draw(6, 8, "float32", 1)
    expected = np.zeros((6, 8), np.float32), before.copy()
    for each in expected:
        each[index] += rows
    for odd_rows, odd_out in ((True, False), (False, True)):
        source = device.asarray(np.append(np.zeros(int(odd_rows), np.float32), rows))[int(odd_rows) :].reshape(3, 8)
        for work, exact in zip((embedding.scatter_rows_into, embedding.add_rows_into), expected, strict=True):
            out = device.asarray(np.append(np.zeros(int(odd_out), np.float32), before))[int(odd_out) :].reshape(6, 8)
            work(source, device.asarray(index), out)
            assert (out.get() == exact).all()


@pytest.mark.parametrize("rows", [0, 1, 7, 63, 64, 65, 300, 1000])
@pytest.mark.parametrize("dtype", ALL)
def test_columns_of_any_height_are_summed(device, dtype, rows):
    values = draw(rows, 33, dtype)
    with counting() as launches:
        actual = KERNELS.column_sums(device.asarray(values))
    assert distance(actual.get(), values.astype(np.float64).sum(axis=0)) < TOLERANCE[dtype]["forward"]
    assert len(launches) == (1 if rows <= embedding.SLICE else 2)


def test_several_matrices_are_summed_in_one_pair_of_launches(device):
    shapes = [(300, 33), (7, 260), (1, 1), (129, 128), (0, 3)]
    values = [draw(*shape, "float32", seed) for seed, shape in enumerate(shapes)]
    out = [device.empty(width, np.float32) for _, width in shapes]
    with counting() as launches:
        embedding.sum_columns(workspace(), list(zip(map(device.asarray, values), out, strict=True)))
    assert launches == ["column_sums", "column_sums"]
    for rows, sums in zip(values, out, strict=True):
        assert distance(sums.get(), rows.astype(np.float64).sum(axis=0)) < 1e-6


def test_a_block_of_joint_sums_inside_another_computes_its_own(device):
    outer, inner = draw(300, 33, "float32"), draw(70, 5, "float32", 1)
    with KERNELS.joint_column_sums():
        first = KERNELS.column_sums(device.asarray(outer))
        with KERNELS.joint_column_sums():
            second = KERNELS.column_sums(device.asarray(inner))
        assert distance(second.get(), inner.astype(np.float64).sum(axis=0)) < 1e-6
    assert distance(first.get(), outer.astype(np.float64).sum(axis=0)) < 1e-6


def test_unaligned_arrays_give_the_results_of_aligned_ones(device):
    table = draw(9, 8, "float32")
    shifted = device.asarray(np.concatenate([np.zeros(1, np.float32), table.ravel()]))[1:].reshape(9, 8)
    assert shifted.data.ptr % 16
    actual = KERNELS.embedding_gradient(shifted, device.asarray(np.arange(9) % 4), 4)
    assert distance(actual.get(), summed(table, np.arange(9) % 4, 4)) < 1e-6
    assert distance(KERNELS.column_sums(shifted).get(), table.astype(np.float64).sum(axis=0)) < 1e-6


@pytest.mark.parametrize("dtype", HALVES)
def test_columns_of_a_matrix_are_summed_where_they_are(device, dtype):
    matrix = np.arange(70 * 13).reshape(70, 13).astype(dtype) % 7
    dev_matrix = device.asarray(matrix)
    for first, last in ((4, 12), (1, 13), (8, 13)):
        with counting() as launches:
            sums = KERNELS.column_sums(dev_matrix[:, first:last], dev_matrix[:5, :first])
        assert launches == ["column_sums"] * 3  # no copy
        assert (sums.get() == np.concatenate([matrix[:, first:last].sum(0), matrix[:5, :first].sum(0)])).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_partial_column_sums_of_half_types_are_kept_in_float32(device, dtype):
    # 300 slices of 64 ones, then 77: in 16 bits, those beyond 2048 or 256 are lost
    rows = np.ones((300 * embedding.SLICE + 77, 3), dtype)
    rows[:, 1], rows[:, 2] = 0.25, -1 / 64
    expected = rows.astype(np.float64).sum(axis=0).astype(dtype)
    assert (KERNELS.column_sums(device.asarray(rows)).get() == expected).all()
