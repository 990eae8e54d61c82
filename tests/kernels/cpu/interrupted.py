"""Interrupt `model.loss` at random moments with the pool forced parallel, and check all that follows.

Run as ``python interrupted.py KIND COUNT THREADS``, in a process of its own. KIND:

alarm     a SIGALRM handler that raises TimeoutError
repeated  the same, up to three times for each call, 20 us apart
sigint    SIGINT and Python's own handler
sigterm   a SIGTERM handler that raises SystemExit
async     `PyThreadState_SetAsyncExc`

After each interrupt new arrays must keep their contents (a worker that was left behind would write into memory that
was freed), and the next result must have the same bits as without interrupts. Prints how many calls raised.
"""

from __future__ import annotations

import ctypes
import faulthandler
import hashlib
import os
import random
import signal
import sys
import threading
import time
from collections import Counter

import numpy as np

import capgpu
from capgpu.kernels.cpu import embedding, gemm, recurrence, softmax
from capgpu.kernels.cpu.thread_pool import ThreadPool

MODULES = (embedding, recurrence, gemm, softmax)
EXPECTED = {
    "alarm": TimeoutError,
    "repeated": TimeoutError,
    "sigint": KeyboardInterrupt,
    "sigterm": SystemExit,
    "async": LookupError,
}


def force_parallel(n_threads):
    """Share every job of the host kernels among a number of threads; return their pool."""
    pool = ThreadPool(n_threads, patience=0.02)
    for module in MODULES:
        module.POOL, module.WORTH_SHARING = pool, 0
    return pool


def make_loss():
    """Return a function that computes a digest of a loss and its gradients."""
    capgpu.set_backend("cpu")
    words = {word: i for i, word in enumerate(["<NULL>", "<START>", "<END>", *map(str, range(97))])}
    model = capgpu.CaptioningRNN(words, 24, 24, 64, "lstm", seed=0)
    numbers = np.random.default_rng(0)
    features = numbers.standard_normal((12, 24)).astype(np.float32)
    captions = numbers.integers(3, 100, (12, 9))

    def loss():
        value, grads = model.loss(features, captions)
        digest = hashlib.sha256(value.tobytes())
        for name in sorted(grads):
            digest.update(np.ascontiguousarray(grads[name]))
        return digest.hexdigest()

    return loss


class Interrupter(threading.Thread):
    """A thread that interrupts the main one, once for each request."""

    def __init__(self, kind):
        super().__init__(daemon=True)
        self.kind, self.delay, self.asked = kind, 0.0, threading.Semaphore(0)

    def run(self):
        main = ctypes.c_ulong(threading.main_thread().ident)
        while True:
            self.asked.acquire()
            time.sleep(self.delay)
            if self.kind == "async":
                ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(EXPECTED["async"]))
            else:
                os.kill(os.getpid(), signal.SIGINT if self.kind == "sigint" else signal.SIGTERM)


class Alarm:
    """A timer whose handler raises, in the call under test only.

    The handler sets the next alarm: a timer that repeats by itself would fill a slow machine with handlers that
    interrupt each other, until Python's stack is full.
    """

    def __init__(self, times, under_test):
        self.times, self.remaining, self.under_test = times, 0, under_test
        signal.signal(signal.SIGALRM, self.handle)

    def handle(self, signum, frame):
        self.remaining -= 1
        while frame is not None and frame.f_code is not self.under_test.__code__:
            frame = frame.f_back
        if frame is None:
            return
        if self.remaining > 0:
            signal.setitimer(signal.ITIMER_REAL, 2e-5)
        raise TimeoutError

    def start(self, delay):
        self.remaining = self.times
        signal.setitimer(signal.ITIMER_REAL, delay)

    def stop(self):
        signal.setitimer(signal.ITIMER_REAL, 0)


def raise_system_exit(signum, frame):
    raise SystemExit


def main(kind, count, n_threads):
    faulthandler.enable()
    pool, loss = force_parallel(n_threads), make_loss()
    expected = loss()
    while pool.serving < n_threads - 1:
        time.sleep(1e-3)
    before = pool.tasks_of_workers
    took = 1.0
    for _ in range(50):
        start = time.perf_counter()
        assert loss() == expected
        took = min(took, time.perf_counter() - start)
    assert n_threads == 1 or pool.tasks_of_workers > before, "no job was shared"

    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, raise_system_exit)
    interrupter = Interrupter(kind)
    interrupter.start()

    def interrupted():
        if kind in ("alarm", "repeated"):
            loss()
        else:
            interrupter.asked.release()
            loss()
            while True:  # until the interrupt comes
                time.sleep(1e-4)

    alarm = Alarm(3 if kind == "repeated" else 1, interrupted)
    delays, raised = random.Random(n_threads), Counter()
    for number in range(count):
        faulthandler.dump_traceback_later(60, exit=True)
        delay = delays.uniform(1e-6, 1.1 * took)
        interrupter.delay = delay
        try:
            if kind in ("alarm", "repeated"):
                alarm.start(delay)
            interrupted()
            outcome = "nothing"
        except EXPECTED[kind]:
            outcome = EXPECTED[kind].__name__
        fresh = [np.full(size, 7.5, np.float32) for size in (64, 2_400, 6_400, 24_576)]
        alarm.stop()
        raised[outcome] += 1
        assert loss() == expected, f"wrong numbers after interrupt {number}"
        assert all((array == 7.5).all() for array in fresh), f"memory overwritten after interrupt {number}"
    faulthandler.cancel_dump_traceback_later()
    shared = pool.tasks_of_workers - before
    pool.close()
    print(raised[EXPECTED[kind].__name__], raised["nothing"], shared)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
