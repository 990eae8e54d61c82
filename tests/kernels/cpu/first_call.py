"""Interrupt the first kernel call of fresh processes at random moments, and check that later calls are sound.

Run as ``python first_call.py KIND COUNT SEED``. KIND is one of `EXPECTED`, as in `interrupted`. Each of COUNT child
processes, forked before Numba is imported, is interrupted once while it imports Numba, loads its tables, and loads
kernels from disk (or compiles them, with a NUMBA_CACHE_DIR that cannot be written). The exception must reach the
caller, and the next call must give the bits of an undisturbed process. Prints how often each outcome was seen:

raised    the exception reached the caller, and the next call was right
lost      it did not, within five seconds after the call
other     the first call raised something else
broken    a later call raised
wrong     a later call returned other bits
ended     the process was ended by a signal, or hung for `PATIENCE` seconds
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import random
import signal
import sys
import threading
import time
import traceback
from collections import Counter

import numpy as np

import capgpu

EXPECTED = {
    "alarm": TimeoutError,
    "sigint": KeyboardInterrupt,
    "sigterm": SystemExit,
    "async": LookupError,
}
#: Seconds until a child process is killed.
PATIENCE = 240


def make_loss():
    """Return a function that computes a digest of a loss and its gradients, on several threads and on one."""
    capgpu.set_backend("cpu")
    words = {word: i for i, word in enumerate(["<NULL>", "<START>", "<END>", *map(str, range(97))])}
    models = [capgpu.CaptioningRNN(words, 24, 24, 64, "lstm", seed=0, output_dropout=rate) for rate in (0.0, 0.5)]
    numbers = np.random.default_rng(0)
    features = numbers.standard_normal((12, 24)).astype(np.float32)
    captions = numbers.integers(3, 100, (12, 9))

    def loss():
        digest = hashlib.sha256()
        for model in models:
            value, grads = model.loss(features, captions, dropout_key=1 if model.output_dropout else None)
            digest.update(value.tobytes())
            for name in sorted(grads):
                digest.update(np.ascontiguousarray(grads[name]))
        return digest.hexdigest()

    return loss


def raise_expected(kind):
    """Return a signal handler that raises."""

    def handle(signum, frame):
        raise EXPECTED[kind]

    return handle


def send(kind, delay):
    """Interrupt the main thread of this process once, after some seconds."""
    if kind == "async":
        main = ctypes.c_ulong(threading.main_thread().ident)

        def later():
            time.sleep(delay)
            ctypes.pythonapi.PyThreadState_SetAsyncExc(main, ctypes.py_object(EXPECTED["async"]))

        threading.Thread(target=later, daemon=True).start()
        return
    number = {"alarm": signal.SIGALRM, "sigint": signal.SIGINT, "sigterm": signal.SIGTERM}[kind]
    signal.signal(number, signal.default_int_handler if kind == "sigint" else raise_expected(kind))
    if kind == "alarm":
        signal.setitimer(signal.ITIMER_REAL, delay)
    else:
        threading.Timer(delay, os.kill, [os.getpid(), number]).start()


def child(kind, delay, loss, expected):
    """Return the outcome of one interrupted first call."""
    outcome = "lost"
    try:
        send(kind, delay)
        loss()
        end = time.monotonic() + 5
        while time.monotonic() < end:
            time.sleep(1e-3)
    except EXPECTED[kind]:
        outcome = "raised"
    except BaseException:
        traceback.print_exc()
        outcome = "other"
    try:
        if any(loss() != expected for _ in range(2)):
            return "wrong"
    except BaseException:
        traceback.print_exc()
        return "broken"
    return outcome


def forked(function, *args):
    """Return what a function returns in a forked process, as text; None if the process ends without it."""
    reading, writing = os.pipe()
    process = os.fork()
    if process == 0:
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        code = 1
        try:
            os.write(writing, str(function(*args)).encode())
            code = 0
        finally:
            os._exit(code)
    os.close(writing)
    killer = threading.Timer(PATIENCE, os.kill, [process, signal.SIGKILL])
    killer.start()
    with open(reading, "rb") as answer:
        text = answer.read().decode()
    _, status = os.waitpid(process, 0)
    killer.cancel()
    return text if status == 0 else None


def undisturbed(loss):
    """Return the duration of a first call, and its result."""
    start = time.perf_counter()
    digest = loss()
    return f"{time.perf_counter() - start} {digest}"


def main(kind, count, seed):
    loss = make_loss()
    assert "numba" not in sys.modules, "the parent must not have what the children load"
    forked(undisturbed, loss)  # compiles the kernels, once
    took, expected = forked(undisturbed, loss).split()
    delays = random.Random(seed)
    outcomes = Counter(
        forked(child, kind, delays.uniform(0, float(took)), loss, expected) or "ended" for _ in range(count)
    )
    print(f"first call {float(took):.3f} s", *(f"{name} {number}" for name, number in sorted(outcomes.items())))


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
