"""Softmax cross-entropy on the device: both kernels, every storage type, around the edges of packs, warps, blocks."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.kernels import Dropout
from capgpu.kernels.cuda import KERNELS, compile, softmax, workspace
from capgpu.kernels.cuda.device_calls import counting
from capgpu.random import dropout_mask
from oracles.halves import ALL, HALVES, sums
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


def smoothed(scores, targets, smoothing):
    """Return each row's loss and gradient with smoothed labels, by plain arithmetic in float64."""
    scores = scores.astype(np.float64)
    shifted = scores - scores.max(axis=1, keepdims=True)
    log_probs = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    truth = np.full(scores.shape, smoothing / scores.shape[1])
    truth[np.arange(len(targets)), targets] += 1 - smoothing
    has_target = (targets >= 0)[:, None]
    losses = -np.where(has_target, truth * log_probs, 0).sum(axis=1)
    return losses, np.where(has_target, np.exp(log_probs) - truth, 0)


@pytest.mark.parametrize("rows", [1, 3, 7, 33])
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", ALL)
def test_loss_and_gradient_equal_those_of_plain_arithmetic(device, dtype, size, rows):
    scores, targets = draw(rows, size, dtype)
    loss, gradient = KERNELS.softmax_cross_entropy(device.asarray(scores), device.asarray(targets), 0.5)
    want_loss, expected = cross_entropy(scores.astype(np.float64), targets, 0.5)
    assert (loss.dtype, gradient.dtype) == (sums(dtype), dtype)
    assert distance(loss.get(), want_loss) < TOLERANCE[dtype]["forward"]
    assert distance(gradient.get(), expected) < TOLERANCE[dtype]["gradient"]


@pytest.mark.parametrize(
    ("name", "size", "grid", "block"),
    [("softmax_warps", 33, 2, 128), ("softmax_registers", 1004, 7, 64), ("softmax_blocks", 1004, 7, 256)],
)
def test_bfloat16_kernels_sum_in_float32(device, name, size, grid, block):
    def rounded(values):
        bits = np.asarray(values, np.float32).view(np.uint32)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)

    def widened(bits):
        return (bits.astype(np.uint32) << 16).view(np.float32).astype(np.float64)

    scores, targets = draw(7, size, "float32")
    dev_scores, losses = device.asarray(rounded(scores)), device.empty(7, np.float32)
    args = (device.asarray(targets.astype(np.int32)), losses, np.int32(7), np.int32(size), np.float32(1), np.float32(0))
    dev_targets, *rest = args
    compile.kernel(name, "bfloat16")(grid, block, (dev_scores, np.uint64(0), dev_targets, np.uint64(0), *rest))
    want_loss, expected = cross_entropy(widened(rounded(scores)), targets, 1.0)
    assert distance(losses.get().sum(), want_loss) < 1e-5
    assert distance(widened(dev_scores.get()), expected) < 1e-2


@pytest.mark.parametrize("size", [7, 32, 600, 1004])
def test_softmax_adds_the_bias(device, size):
    scores, targets = draw(9, size, "float64")
    bias = np.random.default_rng(1).standard_normal(size)
    dev_scores, losses = device.asarray(scores), device.empty(9)
    softmax.cross_entropy_rows(dev_scores, device.asarray(bias), device.asarray(targets.astype(np.int32)), losses, 2.0)
    want_loss, expected = cross_entropy(scores + bias, targets, 2.0)
    assert distance(2 * losses.get().sum(), want_loss) < 1e-12
    assert distance(dev_scores.get(), expected) < 1e-12


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [False, True], ids=["", "bias"])
@pytest.mark.parametrize("size", [EDGE + 1, 1023, 1024, 1025, 1031, 2055, 5000, 10007])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_held_in_registers_may_start_and_end_at_any_alignment(device, dtype, size, with_bias, smoothing):
    scores, targets = draw(9, size, dtype)
    targets[:4] = [0, size - 1, size // 2, -1]
    bias = np.random.default_rng(1).standard_normal(size).astype(dtype) if with_bias else None
    want_loss, expected = smoothed(scores if bias is None else scores.astype(np.float64) + bias, targets, smoothing)
    for shift in range(16 // scores.itemsize):
        dev_scores = device.asarray(np.append(scores.ravel()[:shift], scores))[shift:].reshape(scores.shape)
        losses = device.empty(9, np.float32)
        with counting() as launches:
            softmax.cross_entropy_rows(
                dev_scores,
                None if bias is None else device.asarray(bias),
                device.asarray(targets.astype(np.int32)),
                losses,
                0.5,
                smoothing,
            )
        assert launches == ["softmax_registers"]
        assert distance(losses.get(), want_loss) < TOLERANCE[dtype]["forward"]
        assert distance(dev_scores.get(), 0.5 * expected) < TOLERANCE[dtype]["gradient"]


@pytest.mark.parametrize(("dtype", "size"), [("float32", 32771), ("float32", 40000), ("float16", 32776)])
def test_rows_that_registers_cannot_hold_are_read_twice(device, dtype, size):
    scores, targets = draw(2, size, dtype)
    targets[:] = 3, size - 1
    with counting() as launches:
        loss, gradient = KERNELS.softmax_cross_entropy(device.asarray(scores), device.asarray(targets), 0.5)
    assert launches == ["softmax_registers" if size == 32771 else "softmax_blocks", "sum_losses"]
    want_loss, expected = cross_entropy(scores.astype(np.float64), targets, 0.5)
    assert distance(loss.get(), want_loss) < TOLERANCE[dtype]["forward"]
    assert distance(gradient.get(), expected) < TOLERANCE[dtype]["gradient"]


@pytest.mark.parametrize("smoothing", [0.1, 0.9])
@pytest.mark.parametrize("size", [1, 7, 32, 129, EDGE + 1, 1004])
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_smoothed_labels_mix_the_losses_of_all_classes(device, dtype, size, smoothing):
    scores, targets = draw(9, size, dtype)
    dev_scores, losses = device.asarray(scores), device.empty(9, np.float64 if dtype == "float64" else np.float32)
    softmax.cross_entropy_rows(dev_scores, None, device.asarray(targets.astype(np.int32)), losses, 0.5, smoothing)
    want_losses, expected = smoothed(scores.astype(np.float64), targets, smoothing)
    assert distance(losses.get(), want_losses) < TOLERANCE[dtype]["forward"]
    assert distance(dev_scores.get(), 0.5 * expected) < TOLERANCE[dtype]["gradient"]


@pytest.mark.parametrize(("dtype", "size"), [("float32", 33), ("float16", 33), ("float64", 1004), ("float16", 1007)])
def test_a_rows_weight_multiplies_its_loss_and_its_gradient(device, dtype, size):
    scores, targets = draw(9, size, dtype)
    targets[:] = np.arange(9)
    # a row of weight 0 is left out, whatever its scores
    scores[3] = np.nan
    weights = np.array([1, -2, 0.5, 0, 3, 1, -1, 0, 2])
    want_losses, expected = smoothed(np.nan_to_num(scores), targets, 0.1)
    dev_scores, losses = device.asarray(scores), device.empty(9, sums(dtype))
    dev_targets, dev_weights = device.asarray(targets.astype(np.int32)), device.asarray(weights.astype(sums(dtype)))
    softmax.cross_entropy_rows(dev_scores, None, dev_targets, losses, 0.5, 0.1, dev_weights)
    assert distance(losses.get(), weights * want_losses) < TOLERANCE[dtype]["forward"]
    assert distance(dev_scores.get(), 0.5 * weights[:, None] * expected) < TOLERANCE[dtype]["gradient"]


@pytest.mark.parametrize("size", [33, 1004])
def test_smoothing_keeps_its_digits_where_scores_are_far_from_zero(device, size):
    scores, targets = draw(9, size, "float32")
    targets[:] = 3
    scores = np.round(scores * 64) / 64  # exact with and without the offset
    losses = []
    for offset in (0, 2**16):
        dev_scores, dev_losses = device.asarray(scores + np.float32(offset)), device.empty(9, np.float32)
        softmax.cross_entropy_rows(dev_scores, None, device.asarray(targets.astype(np.int32)), dev_losses, 1.0, 0.2)
        losses.append(dev_losses.get())
    assert distance(losses[1], losses[0]) < 1e-6


@pytest.mark.parametrize("size", [33, 1004])
def test_impossible_classes_have_an_infinite_loss_with_smoothing_alone(device, size):
    scores, targets = draw(2, size, "float32")
    scores[:, 5], targets[:] = -np.inf, 2
    losses = device.empty(2, np.float32)
    for smoothing, finite in ((0.0, True), (0.1, False)):
        args = device.asarray(scores), None, device.asarray(targets.astype(np.int32)), losses, 1.0, smoothing
        softmax.cross_entropy_rows(*args)
        assert (np.isfinite(losses.get()) if finite else losses.get() == np.inf).all()


@pytest.mark.parametrize("shifted", ["scores", "bias"])
@pytest.mark.parametrize("size", [32, 1004])
def test_unaligned_arrays_give_the_results_of_aligned_ones(device, size, shifted):
    def to_device(values, name):
        if name != shifted:
            return device.asarray(values)
        return device.asarray(np.append(values.ravel()[:1], values))[1:].reshape(values.shape)

    scores, targets = draw(9, size, "float32")
    bias = np.random.default_rng(1).standard_normal(size).astype(np.float32)
    dev_scores, losses = to_device(scores, "scores"), device.empty(9, np.float32)
    softmax.cross_entropy_rows(
        dev_scores, to_device(bias, "bias"), device.asarray(targets.astype(np.int32)), losses, 2.0
    )
    want_loss, expected = cross_entropy((scores + bias).astype(np.float64), targets, 2.0)
    assert distance(2 * losses.get().sum(), want_loss) < 1e-6
    assert distance(dev_scores.get(), expected) < 1e-5


@pytest.mark.parametrize("size", [33, 1004])
def test_masked_rows_are_not_read_and_get_zero_gradients(device, size):
    scores, targets = draw(7, size, "float32")
    targets[:] = [0, -1, 2, -1, -5, 3, 1]
    scores[targets < 0] = np.nan
    loss, gradient = KERNELS.softmax_cross_entropy(device.asarray(scores), device.asarray(targets), 1.0)
    has_target = targets >= 0
    want_loss, expected = cross_entropy(scores[has_target].astype(np.float64), targets[has_target], 1.0)
    assert distance(loss.get(), want_loss) < 1e-6
    assert not gradient.get()[~has_target].any()
    assert distance(gradient.get()[has_target], expected) < 1e-5


def test_the_gradient_overwrites_the_scores(device):
    scores, targets = draw(3, 33, "float32")
    dev_scores = device.asarray(scores)
    _, gradient = KERNELS.softmax_cross_entropy(dev_scores, device.asarray(targets), 1.0)
    assert gradient.data.ptr == dev_scores.data.ptr


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
def test_invalid_scores_or_targets_make_the_loss_nonfinite(device, size, bad):
    scores, targets = draw(5, size, "float32")
    targets[:] = 2
    if bad == "target":
        targets[3] = size
    else:
        scores[3, 17] = float(bad)
    loss, _ = KERNELS.softmax_cross_entropy(device.asarray(scores), device.asarray(targets), 1.0)
    assert not np.isfinite(float(loss))


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
@pytest.mark.parametrize("rows", [0, 1, 6, 7, 13])
def test_dropout_is_a_mask_on_the_hidden_states_and_on_their_gradient(device, monkeypatch, rows, smoothing):
    random = np.random.default_rng(3)
    hidden, W, b = (random.standard_normal(shape) for shape in ((rows, 5), (5, 40), (40,)))
    dev_arrays = [device.asarray(a) for a in (hidden, W, b, random.integers(-1, 40, rows).astype(np.int32))]
    dropout = Dropout(11, 0.4)
    mask = dropout_mask(dropout.key, dropout.rate, hidden.shape, dev_arrays[0])
    expected = KERNELS.linear_cross_entropy(dev_arrays[0] * mask, *dev_arrays[1:], 0.25, smoothing=smoothing)
    monkeypatch.setattr(softmax, "SCORE_BYTES", 6 * 40 * 8)
    out = KERNELS.linear_cross_entropy(*dev_arrays, 0.25, smoothing=smoothing, dropout=dropout)
    for actual, exact in zip(out, (expected[0], expected[1] * mask, *expected[2:]), strict=True):
        assert distance(actual.get(), exact.get()) < 1e-13
    assert (dev_arrays[0].get() == hidden).all()


@pytest.mark.parametrize("blocks", [1, 2, 3])
def test_a_projection_and_its_gradient_may_be_transposed_views(device, monkeypatch, blocks):
    random = np.random.default_rng(3)
    hidden, W, b = (random.standard_normal(shape) for shape in ((7, 5), (5, 40), (40,)))
    dev_arrays = [device.asarray(a) for a in (hidden, W, b, random.integers(-1, 40, 7).astype(np.int32))]
    expected = KERNELS.linear_cross_entropy(*dev_arrays, 0.25)
    dev_arrays[1] = device.asarray(np.ascontiguousarray(W.T)).T
    monkeypatch.setattr(softmax, "SCORE_BYTES", -(-7 // blocks) * 40 * 8)
    with counting() as launches, KERNELS.joint_column_sums():
        out = KERNELS.linear_cross_entropy(*dev_arrays, 0.25)
    if blocks == 1:
        assert launches == ["matmul", "softmax_warps", "matmul", "matmul", "sum_losses", "column_sums"]
    assert out[2].T.flags.c_contiguous  # in memory as W is
    assert launches.count("softmax_warps") == blocks
    for actual, exact in zip(out, expected, strict=True):
        assert distance(actual.get(), exact.get()) < 1e-13


@pytest.mark.parametrize("gradients", [True, False])
@pytest.mark.parametrize("rows", [0, 1, 6, 7, 13])
def test_large_scores_are_computed_in_blocks_of_rows(device, monkeypatch, rows, gradients):
    random = np.random.default_rng(3)
    hidden, W, b = (random.standard_normal(shape) for shape in ((rows, 5), (5, 40), (40,)))
    targets = random.integers(-1, 40, rows)
    dev_arrays = [device.asarray(a) for a in (hidden, W, b, targets)]
    in_one_block = KERNELS.linear_cross_entropy(*dev_arrays, 0.25, gradients)
    monkeypatch.setattr(softmax, "SCORE_BYTES", 6 * 40 * 8)
    workspace.forget()
    blocks = KERNELS.linear_cross_entropy(*dev_arrays, 0.25, gradients)
    for actual, expected in zip(blocks, in_one_block, strict=True):
        assert (actual is None) == (expected is None)
        if expected is not None:
            assert distance(actual.get(), expected.get()) < 1e-13
    assert workspace.workspace()._buffers["scores"].size <= softmax.SCORE_BYTES


def test_memory_for_scores_is_bounded_for_any_number_of_rows(device, monkeypatch):
    monkeypatch.setattr(softmax, "SCORE_BYTES", 1)
    dev_arrays = [device.asarray(a) for a in (np.ones((3, 2)), np.ones((2, 7)), np.zeros(7), np.array([0, 1, -1]))]
    loss, *_ = KERNELS.linear_cross_entropy(*dev_arrays, 1.0)
    assert abs(float(loss) - 2 * np.log(7)) < 1e-12


@pytest.mark.parametrize("size", [40, 1004])
@pytest.mark.parametrize("dtype", HALVES)
def test_the_loss_of_half_types_may_exceed_the_range_of_float16(device, dtype, size):
    scores = np.zeros((9, size), dtype)
    scores[:, 1], scores[:, 2] = 6e4, -6e4
    dev_scores = [device.asarray(scores.astype(scores_dtype)) for scores_dtype in (dtype, "float64")]
    targets = device.asarray(np.full(9, 2))
    (loss, gradient), (expected, _) = (KERNELS.softmax_cross_entropy(array, targets, 1.0) for array in dev_scores)
    assert loss.dtype == np.float32
    assert distance(loss.get(), expected.get()) < 5e-3
    assert (gradient.get()[:, :4].astype(np.float32) == [0, 1, -1, 0]).all()


@pytest.mark.parametrize("dtype", HALVES)
def test_an_overflowed_score_makes_the_loss_nan(device, dtype):
    scores = np.zeros((2, 40), dtype)
    scores[1, 3] = np.inf
    loss, _ = KERNELS.softmax_cross_entropy(device.asarray(scores), device.asarray(np.array([0, 1])), 1.0)
    assert not np.isfinite(float(loss))
