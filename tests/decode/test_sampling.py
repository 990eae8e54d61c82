"""Sampling: the distribution, its truncation, and seeds."""

from __future__ import annotations

import math

import numpy as np
import pytest

import capgpu
from capgpu.decode import greedy, sample
from oracles.decoding import Writer, ids_of, without_null
from oracles.scenes import SIZES, WORDS

FREE = [2, 4, 5, 6]  # without UNK


def test_frequencies_of_sampled_words_equal_their_probabilities(backend, scene):
    model, params, features = scene(count=1)
    repeated_features = np.repeat(features, 4000, axis=0)
    first = ids_of(backend, sample(model, backend.asarray(repeated_features), temperature=1.5, seed=11, max_length=1))[
        :, 0
    ]
    weights = np.exp(Writer(params, features[0]).next_log_probs(())[FREE] / 1.5)
    probabilities = weights / weights.sum()
    frequencies = np.array([(first == word).mean() for word in FREE])
    # five standard deviations
    assert (np.abs(frequencies - probabilities) < 5 * np.sqrt(probabilities * (1 - probabilities) / 4000)).all()
    assert set(first.tolist()) <= set(FREE)


@pytest.mark.parametrize(("top_k", "top_p"), [(1, None), (2, None), (None, 0.5), (3, 0.8), (None, 1e-9), (99, 1.0)])
def test_top_k_and_top_p_draw_only_from_the_most_probable_words(backend, scene, top_k, top_p):
    model, params, features = scene(count=2)
    repeated_features = np.repeat(features, 400, axis=0)
    first = ids_of(
        backend, sample(model, backend.asarray(repeated_features), top_k=top_k, top_p=top_p, seed=3, max_length=1)
    )
    for n, feature in enumerate(features):
        log_probs = Writer(params, feature).next_log_probs(())
        head = sorted(FREE, key=lambda word: -log_probs[word])[:top_k]
        if top_p is not None:
            sums = np.cumsum(np.exp(log_probs[head])) / np.exp(log_probs[head]).sum()
            head = head[: int(np.searchsorted(sums, top_p)) + 1]
        drawn = first[400 * n : 400 * (n + 1), 0]
        assert set(drawn.tolist()) <= set(head)
        probable = [word for word in head if log_probs[word] > math.log(0.05)]
        assert set(probable) <= set(drawn.tolist())


def test_log_probabilities_equal_the_models(backend, scene):
    model, params, features = scene(count=5)
    decoded = sample(model, backend.asarray(features), temperature=0.5, top_k=3, seed=1, max_length=7)
    for feature, row, chances, score in zip(
        features,
        ids_of(backend, decoded),
        backend.to_numpy(decoded.log_probs)[:, 0],
        backend.to_numpy(decoded.scores)[:, 0],
        strict=True,
    ):
        assert chances.sum() == pytest.approx(Writer(params, feature).log_prob(without_null(row)), abs=1e-10)
        assert score == pytest.approx(chances.sum())


def test_equal_seeds_give_equal_captions_and_others_different_ones(backend, scene):
    model, _, features = scene(count=20)
    device_features = backend.asarray(features)
    one, repeated, other = (ids_of(backend, sample(model, device_features, seed=seed)).tolist() for seed in (4, 4, 5))
    assert one == repeated
    assert one != other


def test_the_batch_size_does_not_change_the_captions(backend, scene):
    model, _, features = scene(count=7)
    whole = ids_of(backend, sample(model, backend.asarray(features), seed=4)).tolist()
    parts = [
        ids_of(backend, sample(model, backend.asarray(features[a:b]), seed=4, first=a)).tolist()
        for a, b in ((0, 3), (3, 7))
    ]
    assert parts[0] + parts[1] == whole


def test_a_seed_gives_the_same_captions_on_every_backend(backend, scene):
    model, _, features = scene(count=20)
    ids = ids_of(backend, sample(model, backend.asarray(features), seed=4)).tolist()
    with capgpu.use_backend("numpy"):
        host = capgpu.CaptioningRNN(WORDS, **SIZES, cell_type=model.cell_type, dtype="float64")
        host.params = {name: backend.to_numpy(value) for name, value in model.params.items()}
        assert capgpu.to_numpy(sample(host, features, seed=4).ids)[:, 0].tolist() == ids


@pytest.mark.parametrize("cut", [{}, {"top_k": 3, "top_p": 0.9}], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extreme_temperatures_give_greedy_and_uniform_choices(backend, scene, dtype, cut):
    model, _, features = scene(count=9, dtype=dtype)
    device_features = backend.asarray(features)
    best = ids_of(backend, greedy(model, device_features)).tolist()
    for temperature in (1e-12, 1e-39, 5e-324):
        assert ids_of(backend, sample(model, device_features, temperature=temperature, seed=2, **cut)).tolist() == best
    repeated_features = backend.asarray(np.repeat(features[:1], 300, axis=0))
    for high_temperature in (1e39, 1e308):
        first_words = ids_of(
            backend, sample(model, repeated_features, temperature=high_temperature, seed=2, max_length=1, **cut)
        )[:, 0]
        counts = np.bincount(first_words, minlength=len(WORDS))[FREE]
        # 3 or 4 words, all of them equally often
        assert np.count_nonzero(counts) == (3 if cut else 4)
        assert counts[counts > 0].min() > 30
        assert counts.sum() == 300


def test_half_precision_draws_the_words_of_float32(scene):
    """Neither the random numbers nor the sums over a vocabulary of thousands fit into 16 bits."""
    words = {**WORDS, **{f"w{i}": len(WORDS) + i for i in range(4000)}}
    capgpu.set_backend("numpy")
    ids_by_dtype = {}
    for dtype in ("float16", "float32"):
        model = capgpu.CaptioningRNN(words, **SIZES, dtype=dtype, seed=0)
        for value in model.params.values():
            value[...] = 0
        ids_by_dtype[dtype] = sample(model, np.zeros((200, SIZES["input_dim"]), dtype), seed=3, max_length=3).ids
    assert ids_by_dtype["float16"].tolist() == ids_by_dtype["float32"].tolist()
    assert ids_by_dtype["float16"].max() > 3900


@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": math.inf},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"first": -1},
        {"first": 2**63},
    ],
    ids=str,
)
def test_invalid_settings_are_refused(settings):
    with capgpu.use_backend("numpy"):
        model = capgpu.CaptioningRNN(WORDS, **SIZES)
        with pytest.raises(ValueError, match=next(iter(settings))):
            sample(model, np.zeros((1, SIZES["input_dim"]), np.float32), **settings)
