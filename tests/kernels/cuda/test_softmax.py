"""Softmax cross-entropy on the device: both kernels, every storage type, around the edges of packs, warps, blocks."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.kernels.cuda import KERNELS, module, softmax
from oracles.numbers import TOLERANCE, distance
from oracles.recurrences import cross_entropy

EDGE = softmax.WARP_SCORES
SIZES = (1, 3, 7, 31, 32, 33, 128, 129, EDGE - 1, EDGE, EDGE + 1, 1004, 1025)


def draw(rows, size, dtype, seed=0):
    random = np.random.default_rng(seed)
    scores = (4 * random.standard_normal((rows, size))).astype(dtype)
    targets = random.integers(0, size, rows)
    targets[random.uniform(size=rows) < 0.3] = -1
    return scores, targets


@pytest.mark.parametrize("rows", [1, 3, 7, 33])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_loss_and_gradient_are_those_of_plain_arithmetic(device, dtype, size, rows):
    scores, targets = draw(rows, size, dtype)
    loss, gradient = KERNELS.softmax_cross_entropy(device.asarray(scores), device.asarray(targets), 0.5)
    want_loss, want = cross_entropy(scores.astype(np.float64), targets, 0.5)
    assert (loss.dtype, gradient.dtype) == (dtype, dtype)
    assert distance(loss.get(), want_loss) < TOLERANCE[dtype]["forward"]
    assert distance(gradient.get(), want) < TOLERANCE[dtype]["gradient"]


@pytest.mark.parametrize("size", [33, 1004])
def test_bfloat16_is_served_with_float32_sums(device, size):
    def rounded(values):
        bits = np.asarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)

    def widened(bits):
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)

    scores, targets = draw(7, size, "float32")
    there, losses = device.asarray(rounded(scores)), device.empty(7, np.float32)
    name, grid, block = ("softmax_warps", 2, 128) if size <= EDGE else ("softmax_blocks", 7, 256)
    args = (device.asarray(targets.astype(np.int32)), losses, np.int32(7), np.int32(size), np.float32(1))
    module.kernel(name, "bfloat16")(grid, block, (there, np.uint64(0), *args))
    want_loss, want = cross_entropy(widened(rounded(scores)), targets, 1.0)
    assert distance(losses.get().sum(), want_loss) < 1e-5
    assert distance(widened(there.get()), want) < 1e-2


@pytest.mark.parametrize("size", [7, 32, 600, 1004])
def test_the_bias_is_added_on_the_way(device, size):
    scores, targets = draw(9, size, "float64")
    bias = np.random.default_rng(1).standard_normal(size)
    there, losses = device.asarray(scores), device.empty(9)
    softmax.cross_entropy_rows(there, device.asarray(bias), device.asarray(targets.astype(np.int32)), losses, 2.0)
    want_loss, want = cross_entropy(scores + bias, targets, 2.0)
    assert distance(2 * losses.get().sum(), want_loss) < 1e-12
    assert distance(there.get(), want) < 1e-12


@pytest.mark.parametrize("shifted", ["scores", "bias"])
@pytest.mark.parametrize("size", [32, 1004])
def test_memory_that_begins_between_packs_is_read_number_by_number(device, size, shifted):
    def brought(values, name):
        if name != shifted:
            return device.asarray(values)
        return device.asarray(np.append(values.ravel()[:1], values))[1:].reshape(values.shape)

    scores, targets = draw(9, size, "float32")
    bias = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    there, losses = brought(scores, "scores"), device.empty(9, np.float32)
    softmax.cross_entropy_rows(there, brought(bias, "bias"), device.asarray(targets.astype(np.int32)), losses, 2.0)
    want_loss, want = cross_entropy((scores + bias).astype(np.float64), targets, 2.0)
    assert distance(2 * losses.get().sum(), want_loss) < 1e-6
    assert distance(there.get(), want) < 1e-5


@pytest.mark.parametrize("size", [33, 1004])
def test_rows_left_out_are_not_read_and_become_zero(device, size):
    scores, targets = draw(7, size, "float32")
    targets[:] = [0, -1, 2, -1, -5, 3, 1]
    scores[targets < 0] = np.nan
    loss, gradient = KERNELS.softmax_cross_entropy(device.asarray(scores), device.asarray(targets), 1.0)
    kept = targets >= 0
    want_loss, want = cross_entropy(scores[kept].astype(np.float64), targets[kept], 1.0)
    assert distance(loss.get(), want_loss) < 1e-6
    assert not gradient.get()[~kept].any()
    assert distance(gradient.get()[kept], want) < 1e-5


def test_the_gradient_takes_the_place_of_the_scores(device):
    scores, targets = draw(3, 33, "float32")
    there = device.asarray(scores)
    _, gradient = KERNELS.softmax_cross_entropy(there, device.asarray(targets), 1.0)
    assert gradient.data.ptr == there.data.ptr


@pytest.mark.parametrize("size", [33, 1004])
def test_scores_of_any_size_are_safe(device, size):
    scores, targets = draw(4, size, "float32")
    scores[0] = 3e38
    scores[1] = -3e38
    scores[2, 1:] = -np.inf
    scores[3] *= 1e4
    targets[:] = [0, 1, 0, int(scores[3].argmax())]
    loss, gradient = KERNELS.softmax_cross_entropy(device.asarray(scores), device.asarray(targets), 1.0)
    assert abs(float(loss) - 2 * np.log(size)) < 1e-4
    assert np.isfinite(gradient.get()).all()


@pytest.mark.parametrize("size", [33, 1004])
@pytest.mark.parametrize("bad", ["nan", "inf", "target"])
def test_nothing_wrong_passes_unnoticed(device, size, bad):
    scores, targets = draw(5, size, "float32")
    targets[:] = 2
    if bad == "target":
        targets[3] = size
    else:
        scores[3, 17] = float(bad)
    loss, _ = KERNELS.softmax_cross_entropy(device.asarray(scores), device.asarray(targets), 1.0)
    assert not np.isfinite(float(loss))


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 6, 7, 13])
def test_scores_too_large_to_keep_are_taken_in_blocks_of_rows(device, monkeypatch, rows, gradients):
    random = np.random.default_rng(3)
    hidden, W, b = (random.standard_normal(shape) for shape in ((rows, 5), (5, 40), (40,)))
    targets = random.integers(-1, 40, rows)
    there = [device.asarray(a) for a in (hidden, W, b, targets)]
    whole = KERNELS.linear_cross_entropy(*there, 0.25, gradients)
    monkeypatch.setattr(softmax, "SCORE_BYTES", 6 * 40 * 8)
    blocks = KERNELS.linear_cross_entropy(*there, 0.25, gradients)
    for got, want in zip(blocks, whole, strict=True):
        assert (got is None) == (want is None)
        if want is not None:
            assert distance(got.get(), want.get()) < 1e-13
    assert softmax.workspace()._views["scores"].shape[0] <= 6


def test_the_kept_scores_are_bounded_whatever_the_rows(device, monkeypatch):
    monkeypatch.setattr(softmax, "SCORE_BYTES", 1)
    there = [device.asarray(a) for a in (np.ones((3, 2)), np.ones((2, 7)), np.zeros(7), np.array([0, 1, -1]))]
    loss, *_ = KERNELS.linear_cross_entropy(*there, 1.0)
    assert abs(float(loss) - 2 * np.log(7)) < 1e-12
