"""The numbers that the exercises' notebooks print."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu import layers
from oracles import course
from oracles import layers as plain

# the notebooks print eight decimals
HALF_A_DIGIT = 5.1e-9


def on_backend(backend, arguments):
    return {name: backend.asarray(value) for name, value in arguments.items()}


def furthest(actual, expected):
    return np.max(np.abs(actual - expected))


def test_the_oracles_loops_give_the_courses_numbers():
    next_h, next_c = plain.lstm_step(**course.LSTM_STEP)
    assert furthest(plain.rnn_step(**course.RNN_STEP), course.RNN_STEP_NEXT_H) < HALF_A_DIGIT
    assert furthest(plain.rnn(**course.RNN), course.RNN_HIDDEN) < HALF_A_DIGIT
    assert furthest(plain.word_embedding(**course.EMBEDDING), course.EMBEDDING_OUT) < HALF_A_DIGIT
    assert furthest(next_h, course.LSTM_STEP_NEXT_H) < HALF_A_DIGIT
    assert furthest(next_c, course.LSTM_STEP_NEXT_C) < HALF_A_DIGIT
    assert furthest(plain.lstm(**course.LSTM), course.LSTM_HIDDEN) < HALF_A_DIGIT


def test_rnn_step_gives_the_courses_numbers(backend):
    next_h, _ = layers.rnn_step_forward(**on_backend(backend, course.RNN_STEP))
    assert furthest(backend.to_numpy(next_h), course.RNN_STEP_NEXT_H) < HALF_A_DIGIT


def test_rnn_sequence_gives_the_courses_numbers(backend):
    h, _ = layers.rnn_forward(**on_backend(backend, course.RNN))
    assert furthest(backend.to_numpy(h), course.RNN_HIDDEN) < HALF_A_DIGIT


def test_word_embedding_gives_the_courses_numbers(backend):
    out, _ = layers.word_embedding_forward(**on_backend(backend, course.EMBEDDING))
    assert furthest(backend.to_numpy(out), course.EMBEDDING_OUT) < HALF_A_DIGIT


def test_lstm_step_gives_the_courses_numbers(backend):
    next_h, next_c, _ = layers.lstm_step_forward(**on_backend(backend, course.LSTM_STEP))
    assert furthest(backend.to_numpy(next_h), course.LSTM_STEP_NEXT_H) < HALF_A_DIGIT
    assert furthest(backend.to_numpy(next_c), course.LSTM_STEP_NEXT_C) < HALF_A_DIGIT


def test_lstm_sequence_gives_the_courses_numbers(backend):
    h, _ = layers.lstm_forward(**on_backend(backend, course.LSTM))
    assert furthest(backend.to_numpy(h), course.LSTM_HIDDEN) < HALF_A_DIGIT


@pytest.mark.parametrize(
    ("count", "steps", "mask_rate", "low", "high"),
    [(100, 1, 1.0, 2.29, 2.32), (100, 10, 1.0, 22.9, 23.2), (5000, 10, 0.1, 2.0, 2.4)],
)
def test_the_loss_of_near_uniform_scores_is_the_courses(backend, random, count, steps, mask_rate, low, high):
    x = 0.001 * random.standard_normal((count, steps, 10))
    y = random.integers(0, 10, (count, steps))
    mask = random.uniform(size=(count, steps)) <= mask_rate
    loss, _ = layers.temporal_softmax_loss(backend.asarray(x), backend.asarray(y), backend.asarray(mask))
    assert low < float(loss) < high


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 1, 3)])
def test_ids_of_any_shape_have_vectors_and_gradients(backend, random, shape):
    x, W = random.integers(0, 5, shape), random.standard_normal((5, 3))
    dout = random.standard_normal((*shape, 3))
    out, cache = layers.word_embedding_forward(backend.asarray(x), backend.asarray(W))
    dW = np.zeros_like(W)
    np.add.at(dW, x, dout)
    assert (backend.to_numpy(out) == W[x]).all()
    assert furthest(backend.to_numpy(layers.word_embedding_backward(backend.asarray(dout), cache)), dW) < 1e-12


def test_ids_may_be_a_list(backend, random):
    W = random.standard_normal((5, 3))
    assert (backend.to_numpy(layers.word_embedding_forward([[1, 2]], backend.asarray(W))[0]) == W[[[1, 2]]]).all()
    assert (backend.to_numpy(layers.word_embedding_forward(np.int64(2), backend.asarray(W))[0]) == W[2]).all()


@pytest.mark.parametrize("shape", [(4,), (2, 3), (2, 1, 3)])
def test_affine_maps_and_losses_accept_any_leading_shape(backend, random, shape):
    """The values of (N, T) layers at the same rows."""
    x, w, b = (random.standard_normal(extents) for extents in ((*shape, 3), (3, 5), (5,)))
    y, mask = random.integers(0, 5, shape), random.uniform(size=shape) < 0.7
    flat = [backend.asarray(array) for array in (x.reshape(1, -1, 3), w, b)]
    expected, flat_cache = layers.temporal_affine_forward(*flat)
    out, cache = layers.temporal_affine_forward(backend.asarray(x), flat[1], flat[2])
    assert (backend.to_numpy(out) == backend.to_numpy(expected).reshape(*shape, 5)).all()
    gradients = layers.temporal_affine_backward(out, cache), layers.temporal_affine_backward(expected, flat_cache)
    for actual, expected_array in zip(*gradients, strict=True):
        assert (backend.to_numpy(actual).ravel() == backend.to_numpy(expected_array).ravel()).all()
    loss, dx = layers.temporal_softmax_loss(out, backend.asarray(y), backend.asarray(mask))
    rows = (expected, backend.asarray(y.reshape(1, -1)), backend.asarray(mask.reshape(1, -1)))
    row_loss, row_dx = layers.temporal_softmax_loss(*rows)
    assert furthest(shape[0] * float(loss), float(row_loss)) < 1e-12
    assert furthest(shape[0] * backend.to_numpy(dx), backend.to_numpy(row_dx).reshape(*shape, 5)) < 1e-12


def test_an_ignored_word_counts_as_masked(backend, random):
    x, y = backend.asarray(random.standard_normal((2, 4, 5))), np.array([[1, 4, 0, 0], [3, 0, 2, 0]])
    expected = layers.temporal_softmax_loss(x, backend.asarray(y), backend.asarray(y != 0))
    actual = layers.temporal_softmax_loss(x, backend.asarray(y), ignore_index=0)
    outside = layers.temporal_softmax_loss(x, backend.asarray(np.where(y, y, -100)), ignore_index=-100)
    both = layers.temporal_softmax_loss(x, backend.asarray(y), backend.asarray(y != 4), ignore_index=0)
    without = layers.temporal_softmax_loss(x, backend.asarray(y), backend.asarray((y != 0) & (y != 4)))
    for results, others in ((actual, expected), (outside, expected), (both, without)):
        assert float(results[0]) == float(others[0])
        assert (backend.to_numpy(results[1]) == backend.to_numpy(others[1])).all()
