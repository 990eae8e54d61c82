"""The thread pool: tasks that fail, workers that are missing, forks, the end of the interpreter."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
import warnings

import numpy as np
import pytest

from capgpu.kernels.cpu import job_slot, thread_pool
from capgpu.kernels.cpu.job_slot import barrier
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.task_memory import allocate, release
from capgpu.kernels.cpu.thread_pool import ThreadPool

posix = pytest.mark.skipif(os.name != "posix", reason="one thread on this system")
pytestmark = posix


def mark(index, count, work, out):
    """Compute for a while, then write this task's part."""
    total = 0.0
    for k in range(work):
        total += np.sin(k)
    for j in range(out.size * index // count, out.size * (index + 1) // count):
        out[j] = 1.0 + 0.0 * total


def fail(index, count, failing, out):
    """Fail in one of the tasks for want of memory."""
    size = 1 << 60 if index == failing else 1
    memory = allocate(size, out)
    out[index] = memory.size
    release(memory)


def fail_beside_a_barrier(index, count, slot, failing, out):
    """Fail in one of the tasks, for which others wait at a barrier."""
    size = 1 << 60 if index == failing and count > 1 else 1
    memory = allocate(size, out)
    out[index] = memory.size
    release(memory)
    for step in range(3):
        if not barrier(slot, index, count, step + 1):
            return


def fail_to_allocate(index, count, slot, failing, out):
    """Fail in one of the tasks, of which each touches 2 MB of memory that it releases."""
    memory = allocate(1 << 55 if index == failing and count > 1 else 1 << 18, out)
    for j in range(0, memory.size, 512):
        memory[j] = 1.0
    out[index] = memory.size
    barrier(slot, index, count, 1)
    release(memory)


def rotate(index, count, slot, steps, values):
    """Add to each value its left neighbour's, `steps` times; a thread has a run of them. Two rows take turns."""
    n = values.shape[1]
    for step in range(steps):
        before, after = values[step % 2], values[(step + 1) % 2]
        for j in range(n * index // count, n * (index + 1) // count):
            after[j] = (before[j] + before[j - 1]) % 1_000_003
        if not barrier(slot, index, count, step + 1):
            return


MARK, FAIL = parallel_job()(mark), parallel_job(allocates=True)(fail)
FAIL_BESIDE = parallel_job(barriers=True, allocates=True)(fail_beside_a_barrier)
FAIL_TO_ALLOCATE = parallel_job(barriers=True)(fail_to_allocate)
ROTATE = parallel_job(barriers=True)(rotate)


@pytest.fixture
def make_pool():
    """Create pools that are closed after the test."""
    pools = []

    def make(n_threads, serving=True, **options):
        pool = ThreadPool(n_threads, **options)
        pools.append(pool)
        if serving:
            pool.run(n_threads, MARK, 0, np.empty(1))
            await_serving(pool)
        return pool

    yield make
    for pool in pools:
        pool.close()


def await_serving(pool, count=None):
    limit = time.monotonic() + 30
    while pool.serving < (pool.n_threads - 1 if count is None else count):
        assert time.monotonic() < limit, "workers do not start"
        time.sleep(1e-3)


def marked(pool, work=0):
    out = np.zeros(1000)
    pool.run(pool.n_threads, MARK, work, out)
    return bool((out == 1).all())


def test_tasks_run_on_workers(make_pool):
    pool = make_pool(3, patience=10.0)
    before = pool.tasks_of_workers
    assert all(marked(pool) for _ in range(100))
    assert pool.tasks_of_workers == before + 200


def test_workers_that_sleep_are_woken(make_pool):
    pool = make_pool(3, patience=10.0)
    for _ in range(5):
        time.sleep(0.05)
        before = pool.tasks_of_workers
        assert marked(pool)
        assert pool.tasks_of_workers == before + 2


@pytest.mark.parametrize("n_threads", [2, 3, 7, 16, 64])
def test_barriers_order_all_threads(make_pool, n_threads):
    # 16 and 64: more threads than processors on most machines
    pool, steps = make_pool(n_threads, patience=10.0), 40
    start = np.random.default_rng(0).integers(0, 1000, 517)
    expected = start.copy()
    for _ in range(steps):
        expected = (expected + np.roll(expected, 1)) % 1_000_003
    for _ in range(5):
        before = pool.tasks_of_workers
        values = np.stack([start, np.zeros_like(start)])
        pool.run(n_threads, ROTATE, steps, values)
        assert (values[steps % 2] == expected).all()
        assert pool.tasks_of_workers == before + n_threads - 1


@pytest.mark.parametrize("launch", [FAIL, FAIL_BESIDE, FAIL_TO_ALLOCATE], ids=["independent", "barriers", "own memory"])
@pytest.mark.parametrize("failing", [0, 1, 2])
def test_a_task_that_runs_out_of_memory_raises_memory_error(make_pool, launch, failing):
    pool = make_pool(3, patience=10.0)
    for _ in range(20):
        with pytest.raises(MemoryError, match="expected memory for the temporary arrays"):
            pool.run(3, launch, failing, np.zeros(3))
        assert marked(pool)
        pool.run(3, launch, -1, np.zeros(3))


def test_a_task_that_runs_out_of_memory_on_one_thread_raises_memory_error(make_pool):
    pool = make_pool(1)
    with pytest.raises(MemoryError):
        pool.run(1, FAIL, 0, np.zeros(3))


def test_an_exception_is_raised_after_the_workers_have_finished(make_pool):
    pool = make_pool(2, patience=10.0)
    outputs = []

    def handle(signum, frame):
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, handle)
    try:
        for _ in range(5):
            outputs.append(np.zeros(1000))
            signal.setitimer(signal.ITIMER_REAL, 0.01)
            with pytest.raises(TimeoutError):
                pool.run(2, MARK, 5_000_000, outputs[-1])  # takes 50 ms or more
            assert (outputs[-1] == 1).all(), "raised before all tasks had ended"
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def test_a_signal_handler_may_run_kernels(make_pool):
    pool, results = make_pool(2, patience=10.0), []
    before = signal.signal(signal.SIGALRM, lambda signum, frame: results.append(marked(pool)))
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-3, 1e-3)
        assert all(marked(pool, 1000) for _ in range(500))
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert results
    assert all(results)


def test_kernels_run_without_a_thread_that_cannot_be_started(make_pool, monkeypatch):
    pool = make_pool(4, serving=False)
    start = threading.Thread.start

    def refuse(thread):
        if thread.name == "capgpu-worker-2":
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", refuse)
    with pytest.warns(RuntimeWarning, match=r"expected to start 3 worker threads, got 1 \(can't start new thread\)"):
        assert marked(pool)
    await_serving(pool, 1)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert all(marked(pool) for _ in range(100))
    monkeypatch.undo()
    pool._retry_at = 0.0  # ten seconds later
    assert marked(pool)
    await_serving(pool)


def test_a_worker_that_has_ended_is_replaced(make_pool, monkeypatch):
    pool = make_pool(3, serving=False)
    monkeypatch.setattr(thread_pool, "_work", lambda words, index: None)
    assert all(marked(pool) for _ in range(10))
    assert pool.serving == 0
    monkeypatch.undo()
    limit = time.monotonic() + 30
    while pool.serving < 2:
        assert marked(pool)
        assert time.monotonic() < limit
        time.sleep(1e-3)


def test_two_threads_never_serve_as_one_worker(make_pool):
    pool = make_pool(2, patience=10.0)
    extra = threading.Thread(target=thread_pool._work, args=(pool._words, 1))
    extra.start()
    extra.join(30)
    assert not extra.is_alive()
    assert pool.serving == 1
    assert marked(pool)


def test_a_closed_pool_runs_on_the_calling_thread(make_pool):
    pool = make_pool(3, patience=10.0)
    pool.close()
    assert pool.serving == 0
    before = pool.tasks_of_workers
    assert marked(pool)
    assert pool.tasks_of_workers == before


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # raised when the workers end
def test_an_exception_in_a_worker_thread_changes_no_result(make_pool):
    import ctypes

    pool = make_pool(3, patience=10.0)
    for thread in pool._threads.values():
        ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(SystemExit))
    before = pool.tasks_of_workers
    assert all(marked(pool) for _ in range(100))
    assert pool.tasks_of_workers == before + 200
    pool.close()


def test_concurrent_launches_get_their_own_results(make_pool):
    pool, results = make_pool(3), []

    def launch_many():
        results.append(all(marked(pool, 100) for _ in range(300)))

    threads = [threading.Thread(target=launch_many) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert results == [True] * 6


def test_barriers_order_all_threads_after_any_number_of_jobs(make_pool):
    # around the job that clears the flags, and where the epoch would overflow in them
    pool, steps = make_pool(3, patience=10.0), 200
    start = np.random.default_rng(0).integers(0, 1000, 517)
    expected = start.copy()
    for _ in range(steps):
        expected = (expected + np.roll(expected, 1)) % 1_000_003
    for epoch in (1 << 38, 1 << 39, 1 << 40):
        pool._words[job_slot.EPOCH // 8] = epoch - 4
        for _ in range(8):
            before = pool.tasks_of_workers
            values = np.stack([start, np.zeros_like(start)])
            pool.run(3, ROTATE, steps, values)
            assert (values[steps % 2] == expected).all()
            assert pool.tasks_of_workers == before + 2


def test_workers_sleep_on_a_condition_that_is_initialized_once(make_pool):
    pool = make_pool(3, patience=10.0)
    time.sleep(0.05)
    job_slot.initialize(pool._memory[1])  # as from a signal handler, between the test and the call
    before = pool.tasks_of_workers
    start = time.monotonic()
    assert marked(pool)
    assert pool.tasks_of_workers == before + 2
    assert time.monotonic() - start < 5


def test_closing_waits_a_second_for_all_workers_together(make_pool, monkeypatch):
    pool = make_pool(3, patience=10.0)
    monkeypatch.setattr(thread_pool, "CLOSING", 0.1)
    joined = []
    monkeypatch.setattr(threading.Thread, "join", lambda thread, timeout: joined.append(timeout) or time.sleep(timeout))
    pool.close()
    assert sum(joined) < 0.2


FORK_WITHIN_A_CALL = """
import ctypes, os, signal, warnings
import numpy as np
from capgpu.kernels.cpu import KERNELS, gemm, job_slot
from capgpu.kernels.cpu.thread_pool import POOL
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of what is tested here
a = np.random.default_rng(0).uniform(-1, 1, (400, 400))
wanted = KERNELS.matmul(a, a).tobytes()
multiply, children = gemm._multiply, []
def fork_and_launch(slot, n_tasks, args):
    # as a signal handler that forks, after the slot has been read
    if not children:
        words = POOL._words
        children.append(os.fork())
        if children == [0]:
            signal.alarm(30)
            # as if a worker had been about to sleep
            ctypes.CDLL(None).pthread_mutex_lock(ctypes.c_void_p(slot + job_slot.MUTEX))
            words[job_slot.SLEEPERS // 8] = 1
    return multiply(slot, n_tasks, args)
gemm._multiply = fork_and_launch
right = all(KERNELS.matmul(a, a).tobytes() == wanted for _ in range(5))
if children == [0]:
    os._exit(0 if right else 1)
print(os.waitpid(children[0], 0)[1], right)
"""


FORK = """
import os, sys, threading, time, warnings
import numpy as np
from capgpu.kernels.cpu import KERNELS
from capgpu.kernels.cpu.thread_pool import POOL
warnings.simplefilter("ignore", DeprecationWarning)  # Python 3.12 warns of what is tested here
random = np.random.default_rng(0)
a, b = (random.uniform(-1, 1, (400, 400)) for _ in range(2))
wanted = KERNELS.matmul(a, b).tobytes()
def work():
    while True:
        assert KERNELS.matmul(a, b).tobytes() == wanted
if sys.argv[1] == "running":
    threading.Thread(target=work, daemon=True).start()
statuses = []
for _ in range(10):
    time.sleep(0.01)
    child = os.fork()
    if child == 0:
        right = all(KERNELS.matmul(a, b).tobytes() == wanted for _ in range(5))
        os._exit(0 if right and POOL.n_threads == 2 else 1)
    statuses.append(os.waitpid(child, 0)[1])
print(statuses, KERNELS.matmul(a, b).tobytes() == wanted)
"""


def run_script(code, *arguments):
    """Run a script in a process of its own, with two threads."""
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", code, *arguments],
        env={**os.environ, "CAPGPU_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=800,  # compiles, where the cache is empty
        check=False,
    )


@pytest.mark.parametrize("state", ["idle", "running"])
def test_a_forked_child_starts_its_own_workers(state):
    done = run_script(FORK, state)
    assert done.stdout.strip() == f"{[0] * 10} True", done.stderr


def test_a_fork_within_a_call_does_not_use_the_old_slot_in_the_child():
    done = run_script(FORK_WITHIN_A_CALL)
    assert done.stdout == "0 True\n", done.stderr


EXIT = """
import atexit, sys, threading, time
import numpy as np
from capgpu.kernels.cpu import KERNELS
a = np.ones((400, 400))
def product():
    assert (KERNELS.matmul(a, a) == 400).all()
def work():
    while True:
        product()
product()
if sys.argv[1] == "running":
    for _ in range(2):
        threading.Thread(target=work, daemon=True).start()
if sys.argv[1] == "atexit":
    atexit.register(product)
if sys.argv[1] == "thread":
    threading.Thread(target=lambda: [time.sleep(0.2), product()]).start()
class Late:
    def __del__(self, product=product):
        product()
if sys.argv[1] == "finalizer":
    late = Late()
time.sleep(0.05)
print("end")
"""


@pytest.mark.parametrize("state", ["idle", "running", "atexit", "thread", "finalizer"])
def test_the_interpreter_can_exit_at_any_moment(state):
    for _ in range(5 if state == "running" else 1):
        done = run_script(EXIT, state)
        assert (done.returncode, done.stdout, done.stderr) == (0, "end\n", "")


def test_idle_workers_sleep(make_pool):
    pool = make_pool(3, patience=10.0)
    assert marked(pool)
    time.sleep(0.1)
    before = time.process_time()
    time.sleep(0.5)
    assert time.process_time() - before < 0.1
