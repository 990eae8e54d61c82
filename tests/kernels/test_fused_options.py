"""Dropout, smoothed labels and tied weights in the host's fused kernels, beside PyTorch."""

from __future__ import annotations

import contextlib
from unittest import mock

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

import capgpu
import capgpu.kernels
from capgpu.kernels.reference import KERNELS as REFERENCE
from oracles.masks import plain_mask
from oracles.numbers import TOLERANCE, distance
from oracles.pools import await_workers
from oracles.snapshots import frozen

CELLS = ["rnn", "lstm"]
DTYPES = ["float32", "float64"]
TIED = pytest.mark.parametrize("tied", [False, True], ids=["", "tied"])
RATES = strategies.sampled_from([0.0, 0.3, 0.8])


def captioner(cell, dtype, words, size, tied=False, seed=0, **options):
    vocabulary = {word: i for i, word in enumerate(["<NULL>", "<START>", "<END>", *map(str, range(words - 3))])}
    model = capgpu.CaptioningRNN(vocabulary, 5, size, size, cell, dtype, seed=seed, tie_weights=tied, **options)
    random = np.random.default_rng(seed)
    for name, value in model.params.items():  # biases too
        model.params[name] = random.normal(0, 0.5, value.shape).astype(dtype)
    return model


def batch(words, count, steps, dtype, seed=0):
    """Draw captions, some of whose words do not count, and features."""
    random = np.random.default_rng([seed, 1])
    captions = random.integers(0, words, (count, steps + 1))
    captions[random.uniform(size=captions.shape) < 0.2] = 0
    captions[0, 1] = words - 1
    return random.uniform(-1, 1, (count, 5)).astype(dtype), captions


@contextlib.contextmanager
def compiled():
    """Have the compiled kernels serve arrays of any size."""
    with mock.patch.object(capgpu.kernels, "COMPILED_FROM", 0), capgpu.use_backend("cpu"):
        yield


def wanted(model, features, captions, key):
    """Let PyTorch compute loss and gradients in float64, word by word in the packed order, with plain masks."""
    torch = pytest.importorskip("torch")
    p = {name: torch.tensor(value.astype(np.float64), requires_grad=True) for name, value in model.params.items()}
    options = model.loss_inputs(features, captions, key)[2]
    order, batch_sizes, words, word_of_row, targets = map(
        torch.tensor, REFERENCE.pack_captions(captions, 0, p["b_vocab"].shape[0])
    )
    mask = plain_mask(options.feature_dropout, features.shape)
    dropped = torch.tensor(features.astype(np.float64) * mask)[order[: batch_sizes[0]]]
    h = dropped @ p["W_proj"] + p["b_proj"]
    c, rows, start = torch.zeros_like(h), [], 0
    for alive in batch_sizes:
        h, c = h[:alive], c[:alive]
        a = p["W_embed"][words[word_of_row[start : start + alive]]] @ p["Wx"] + p["b"] + h @ p["Wh"]
        if model.cell_type == "lstm":
            i, f, o, g = a.chunk(4, 1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
        else:
            h = a.tanh()
        rows.append(h)
        start += alive
    hidden = torch.cat(rows)
    hidden = hidden * torch.tensor(plain_mask(options.output_dropout, tuple(hidden.shape)))
    scores = hidden @ (p["W_embed"].T if model.tie_weights else p["W_vocab"]) + p["b_vocab"]
    loss = torch.nn.functional.cross_entropy(
        scores, targets, ignore_index=-1, label_smoothing=options.smoothing, reduction="sum"
    )
    loss = loss / len(features)
    loss.backward()
    return loss.item(), {name: value.grad.numpy() for name, value in p.items()}


@TIED
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
@hypothesis.given(
    rates=strategies.tuples(RATES, RATES),
    smoothing=strategies.sampled_from([0.0, 0.1, 0.9]),
    key=strategies.none() | strategies.integers(-(2**70), 2**70),
    shape=strategies.tuples(*(strategies.integers(*limits) for limits in ((1, 20), (1, 6), (4, 40), (1, 35)))),
    seed=strategies.integers(0, 2**32),
)
def test_all_options_together_give_pytorchs_loss_and_gradients(cell, dtype, tied, rates, smoothing, key, shape, seed):
    count, steps, words, size = shape
    options = {"feature_dropout": rates[0], "output_dropout": rates[1], "label_smoothing": smoothing}
    features, captions = batch(words, count, steps, dtype, seed)
    with compiled():
        model = captioner(cell, dtype, words, size, tied, seed, **options)
        loss, grads = model.loss(features, captions, dropout_key=key)
    with capgpu.use_backend("numpy"):
        plain_loss, plain = model.loss(features, captions, dropout_key=key)
    want_loss, expected = wanted(model, features, captions, key)
    assert list(grads) == list(model.params)
    assert distance(loss, want_loss) < TOLERANCE[dtype]["forward"]
    assert distance(loss, plain_loss) < TOLERANCE[dtype]["forward"]
    for name, gradient in grads.items():
        assert gradient.dtype == dtype, name
        assert distance(gradient, expected[name]) < TOLERANCE[dtype]["gradient"], name
        assert distance(gradient, plain[name]) < TOLERANCE[dtype]["gradient"], name


@TIED
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("rate", [0.0, 0.3])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_the_number_of_threads_changes_no_bit(shared_by, cell, dtype, rate, smoothing, tied):
    options = {"feature_dropout": rate, "output_dropout": rate, "label_smoothing": smoothing}
    features, captions = batch(300, 23, 7, dtype)
    results = []
    for threads in (1, 2, 3):
        await_workers(shared_by(threads))
        with compiled():
            model = captioner(cell, dtype, 300, 70, tied, **options)
            results.append(frozen(model.loss(features, captions, dropout_key=5)))
    assert results[1:] == results[:1] * 2


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [7, 200])
def test_smoothing_keeps_its_digits_where_scores_are_far_from_zero(dtype, size):
    random = np.random.default_rng(0)
    hidden, W = np.zeros((5, 3), dtype), np.zeros((3, size), dtype)
    b = random.integers(-40, 40, size).astype(dtype) / 8
    targets = random.integers(0, size, 5)
    with compiled():
        kernels = capgpu.kernels.kernels_for(W)
        near, far = (
            kernels.linear_cross_entropy(hidden, W, b + shift, targets, 0.2, True, 0.3)
            for shift in np.array([0, 4096], dtype)
        )
    assert frozen(far) == frozen(near)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [7, 200])
def test_impossible_words_have_an_infinite_loss_with_smoothing_alone(dtype, size):
    b = np.zeros(size, dtype)
    b[3] = -np.inf
    for smoothing, finite in ((0.0, True), (0.1, False)):
        with compiled():
            kernels = capgpu.kernels.kernels_for(b)
            loss, *_ = kernels.linear_cross_entropy(
                np.zeros((2, 4), dtype), np.zeros((4, size), dtype), b, np.array([0, 2]), 1.0, True, smoothing
            )
        assert np.isfinite(loss) == finite
        assert not np.isnan(loss)
