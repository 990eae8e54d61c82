"""Scratch memory: reused from call to call, and never given out twice while it is in use."""

from __future__ import annotations

import signal
import threading

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cpu import softmax
from capgpu.kernels.cpu.workspace import scratch


def test_memory_is_reused_after_its_array_is_gone():
    first = scratch("test", (5, 3), np.float32)
    address = first.ctypes.data
    assert address % 64 == 0
    del first
    second = scratch("test", (4, 3), np.float32)
    assert (second.ctypes.data, second.shape, second.dtype) == (address, (4, 3), np.float32)


def test_memory_in_use_is_not_given_out_again():
    first = scratch("test", (8,), np.float64)
    second = scratch("test", (8,), np.float64)
    third = scratch("test", (16,), np.float64)
    for value, array in enumerate((first, second, third)):
        array[:] = value
    assert [set(array) for array in (first, second, third)] == [{0.0}, {1.0}, {2.0}]


def test_threads_have_memory_of_their_own():
    address, others = scratch("test", (8,), np.float64).ctypes.data, []
    thread = threading.Thread(target=lambda: others.append(scratch("test", (8,), np.float64).ctypes.data))
    thread.start()
    thread.join()
    assert others != [address]


def gradients(seed):
    """Return a function that computes the bytes of a loss and its gradients."""
    words = {word: i for i, word in enumerate(["<NULL>", "<START>", "<END>", *map(str, range(97))])}
    model = capgpu.CaptioningRNN(words, 8, 8, 16, "lstm", seed=seed)
    numbers = np.random.default_rng(seed)
    features, captions = numbers.standard_normal((6, 8)), numbers.integers(3, 100, (6, 5))

    def compute():
        loss, grads = model.loss(features.astype(np.float32), captions)
        return loss.tobytes() + b"".join(np.ascontiguousarray(grads[name]).tobytes() for name in sorted(grads))

    return compute


@pytest.fixture
def two_models(monkeypatch):
    with capgpu.use_backend("cpu"):
        yield gradients(0), gradients(1)


def test_a_call_between_a_kernels_jobs_changes_no_bit(two_models, monkeypatch):
    outer, inner = two_models
    expected, inner_wanted, nested = outer(), inner(), []
    loss_and_gradient = softmax._loss_and_gradient

    def interrupted(*args):
        if not nested:  # as a signal handler would, when the scores have been computed
            nested.append(None)
            nested[0] = inner() == inner_wanted
        return loss_and_gradient(*args)

    monkeypatch.setattr(softmax, "_loss_and_gradient", interrupted)
    assert outer() == expected
    assert nested == [True]


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="this system has no such signals")
def test_a_signal_handler_that_computes_a_loss_changes_no_bit(two_models):
    outer, inner = two_models
    expected, inner_wanted, results = outer(), inner(), []
    before = signal.signal(signal.SIGALRM, lambda signum, frame: results.append(inner() == inner_wanted))
    delays = np.random.default_rng(0).uniform(1e-5, 2e-3, 300)
    try:
        for delay in delays:
            signal.setitimer(signal.ITIMER_REAL, delay)
            assert outer() == expected
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert results
    assert all(results)
