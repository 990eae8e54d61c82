"""Random numbers: equal everywhere, and random."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

import capgpu
from capgpu.random import Generator, dropout_mask, fold_key, uniform
from oracles.masks import kept
from oracles.snapshots import frozen


@pytest.mark.parametrize(
    ("key", "data", "expected"),
    [(0, 0, 0xE220A8397B1DCDAF), (0, 1, 0x6E789E6AA1B965F4), (1234567, 0, 6457827717110365317)],
)
def test_folding_is_splitmix64(key, data, expected):
    # the published first outputs of SplitMix64 for the seeds 0 and 1234567
    assert fold_key(key, data) == expected


def test_folding_accepts_numpy_integers():
    for kind in (np.int8, np.uint8, np.int64, np.uint64):
        assert fold_key(kind(5), kind(7)) == fold_key(5, 7)
    assert fold_key(2**64 + 5, 7) == fold_key(5, 7)
    assert 0 <= fold_key(-1, -1) < 2**64
    with pytest.raises(TypeError, match="integer"):
        fold_key(0.5, 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("rate", [0.0, 0.25, 0.5, 0.9])
def test_masks_are_the_same_on_every_backend_and_in_every_dtype(backend, dtype, rate):
    like = backend.asarray(np.zeros(1, dtype=dtype))
    mask = dropout_mask(99, rate, (7, 33), like)
    expected = kept(99, rate, 7 * 33).reshape(7, 33)
    assert type(mask) is type(like)
    assert backend.to_numpy(mask).dtype == dtype
    assert np.array_equal(backend.to_numpy(mask), (expected * np.float64(1 / (1 - rate))).astype(dtype))


@hypothesis.given(
    key=strategies.integers(-(2**70), 2**70),
    rate=strategies.floats(0, 1, exclude_max=True),
    shape=strategies.lists(strategies.integers(0, 5), max_size=3).map(tuple),
)
def test_a_mask_has_the_requested_shape_and_only_zero_and_the_scale(key, rate, shape):
    mask = dropout_mask(key, rate, shape, np.zeros(1))
    assert mask.shape == shape
    assert np.isin(mask, [0.0, 1 / (1 - rate)]).all()
    assert np.array_equal(mask.reshape(-1) > 0, kept(key, rate, mask.size))


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.8])
def test_a_mask_drops_at_its_rate_and_keeps_the_mean(rate):
    mask = dropout_mask(1, rate, (400, 500), np.zeros(1))
    spread = (rate * (1 - rate) / mask.size) ** 0.5
    assert abs((mask == 0).mean() - rate) < 4 * spread
    assert abs(mask.mean() - 1) < 4 * spread / (1 - rate)


def test_a_rate_of_zero_drops_nothing():
    assert (dropout_mask(1, 0.0, (1000,), np.zeros(1)) == 1).all()


def test_neighbours_rows_and_keys_are_independent():
    count = 100_000
    masks = [dropout_mask(key, 0.5, (count,), np.zeros(1)) > 0 for key in range(4)]
    # four standard deviations of the share of equal pairs
    near_half = 4 * 0.5 / count**0.5
    for other in masks[1:]:
        assert abs((masks[0] == other).mean() - 0.5) < near_half
    for distance in (1, 2, 32, 128, 1024):
        assert abs((masks[0][distance:] == masks[0][:-distance]).mean() - 0.5) < 1.01 * near_half


@pytest.mark.parametrize("backend", ["numpy", "cpu", "cuda"], indirect=True)
@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_normal_numbers_are_the_same_on_every_backend(backend, dtype):
    drawn = Generator(3).normal((5, 7), 0.5, dtype)
    assert capgpu.array_namespace(drawn) is capgpu.current_backend().xp
    with capgpu.use_backend("numpy"):
        assert frozen(Generator(3).normal((5, 7), 0.5, dtype)) == frozen(drawn)


def test_normal_numbers_have_the_moments_and_quantiles_of_a_normal_distribution():
    drawn = Generator(0).normal((400, 500), 2.0, "float64")
    assert abs(drawn.mean()) < 4 * 2 / drawn.size**0.5
    assert abs(drawn.std() / 2 - 1) < 0.01
    # 68, 95 and 99.7 percent
    for sigmas, share in ((1, 0.6827), (2, 0.9545), (3, 0.9973)):
        assert abs((np.abs(drawn) < 2 * sigmas).mean() - share) < 0.005


def test_numbers_of_one_generator_do_not_repeat():
    generator = Generator(0)
    assert frozen(generator.normal((9,), 1.0, "float64")) != frozen(generator.normal((9,), 1.0, "float64"))


def test_uniform_numbers_are_a_function_of_key_and_position(backend):
    like = backend.asarray(np.zeros(1))
    positions = np.arange(1000)
    whole = backend.to_numpy(uniform(5, backend.asarray(positions), like))
    some = np.array([999, 3, 400])
    assert backend.to_numpy(uniform(5, backend.asarray(some), like)).tolist() == whole[some].tolist()
    single = backend.to_numpy(uniform(5, backend.asarray(positions), backend.asarray(np.zeros(1, np.float32))))
    assert single.dtype == np.float32
    assert single.tolist() == whole.tolist()
    assert whole.min() >= 0
    assert whole.max() < 1
    assert len(set(whole.tolist())) > 990
    assert abs(whole.mean() - 0.5) < 0.05
    assert backend.to_numpy(uniform(6, backend.asarray(positions), like)).tolist() != whole.tolist()
