"""The numbers that the exercises' notebooks print."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu import layers
from oracles import course
from oracles import layers as plain

# the notebooks print eight decimals
HALF_A_DIGIT = 5.1e-9


def there(backend, arguments):
    return {name: backend.asarray(value) for name, value in arguments.items()}


def furthest(got, want):
    return np.max(np.abs(got - want))


def test_the_plain_loops_print_the_same_numbers():
    next_h, next_c = plain.lstm_step(**course.LSTM_STEP)
    assert furthest(plain.rnn_step(**course.RNN_STEP), course.RNN_STEP_NEXT_H) < HALF_A_DIGIT
    assert furthest(plain.rnn(**course.RNN), course.RNN_HIDDEN) < HALF_A_DIGIT
    assert furthest(plain.word_embedding(**course.EMBEDDING), course.EMBEDDING_OUT) < HALF_A_DIGIT
    assert furthest(next_h, course.LSTM_STEP_NEXT_H) < HALF_A_DIGIT
    assert furthest(next_c, course.LSTM_STEP_NEXT_C) < HALF_A_DIGIT
    assert furthest(plain.lstm(**course.LSTM), course.LSTM_HIDDEN) < HALF_A_DIGIT


def test_rnn_step(backend):
    next_h, _ = layers.rnn_step_forward(**there(backend, course.RNN_STEP))
    assert furthest(backend.to_numpy(next_h), course.RNN_STEP_NEXT_H) < HALF_A_DIGIT


def test_rnn_sequence(backend):
    h, _ = layers.rnn_forward(**there(backend, course.RNN))
    assert furthest(backend.to_numpy(h), course.RNN_HIDDEN) < HALF_A_DIGIT


def test_word_embedding(backend):
    out, _ = layers.word_embedding_forward(**there(backend, course.EMBEDDING))
    assert furthest(backend.to_numpy(out), course.EMBEDDING_OUT) < HALF_A_DIGIT


def test_lstm_step(backend):
    next_h, next_c, _ = layers.lstm_step_forward(**there(backend, course.LSTM_STEP))
    assert furthest(backend.to_numpy(next_h), course.LSTM_STEP_NEXT_H) < HALF_A_DIGIT
    assert furthest(backend.to_numpy(next_c), course.LSTM_STEP_NEXT_C) < HALF_A_DIGIT


def test_lstm_sequence(backend):
    h, _ = layers.lstm_forward(**there(backend, course.LSTM))
    assert furthest(backend.to_numpy(h), course.LSTM_HIDDEN) < HALF_A_DIGIT


@pytest.mark.parametrize(
    ("count", "steps", "mask_rate", "low", "high"),
    [(100, 1, 1.0, 2.29, 2.32), (100, 10, 1.0, 22.9, 23.2), (5000, 10, 0.1, 2.0, 2.4)],
)
def test_loss_of_near_uniform_scores(backend, random, count, steps, mask_rate, low, high):
    x = 0.001 * random.standard_normal((count, steps, 10))
    y = random.integers(0, 10, (count, steps))
    mask = random.uniform(size=(count, steps)) <= mask_rate
    loss, _ = layers.temporal_softmax_loss(backend.asarray(x), backend.asarray(y), backend.asarray(mask))
    assert low < float(loss) < high
