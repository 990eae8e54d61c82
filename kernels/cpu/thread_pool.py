"""The thread pool of the host kernels: how many threads there are, and their start and end.

There is one pool, so that no two compete for the processors. Its tasks are compiled code that releases the interpreter
lock. A job of tasks is one compiled call; how it is shared with the workers, and why no exception can leave a worker
with freed memory, is described in `capgpu.kernels.cpu.job_slot`. Workers wait for the next job in a short spin, since
the jobs of a training step follow each other within microseconds, and then sleep. While other programs use the
processors jobs run on the calling thread alone (`capgpu.kernels.cpu.contention`).

The states of a worker, and who moves it from one to the next::

    absent ----> serving <----> asleep ----> ended
             1             2            3
       ^                                      |
       +--------------------------------------+
                          4

    1  `ThreadPool.run` finds fewer workers serving than there are to be, and starts those that are missing, unless a
       second process is still compiling what they run. The thread enters `job_slot.serve`, counts itself in SERVING,
       and spins for the next job.
    2  After SPINS rounds without a job the worker waits on the slot's condition; the next job, or `close`, wakes it.
    3  `close` sets STOP: a worker returns from `serve` after the task in hand, whether it was serving or asleep.
    4  A worker that has ended otherwise, as by an exception sent to its thread, is started again by the next `run`.

A fork copies the slot but no worker. `reset` therefore takes a new slot in the child and marks the old one as in use: a
lock or mutex in it may be held by a thread that the child does not have, and would never be released.
"""

from __future__ import annotations

import atexit
import os
import threading
import warnings
from collections.abc import Callable
from time import monotonic
from typing import Any

import numpy as np

from capgpu.kernels.cpu import job_slot
from capgpu.kernels.cpu.compile_ahead import is_compiled_elsewhere
from capgpu.kernels.cpu.system_calls import HAS_POSIX_THREADS
from capgpu.kernels.loading import undisturbed
from capgpu.threads import thread_count, usable_processors

__all__ = ["POOL", "ThreadPool"]

#: Rounds of the spin before a worker sleeps: half a millisecond or so.
SPINS = 10_000
#: Nanoseconds that a job with barriers waits for workers to begin. A worker that spins takes 0.2 us, one that sleeps
#: 50 to 100 us.
PATIENCE = 200_000
#: Seconds until a thread that could not be started is tried again.
RETRY = 10.0
#: Seconds between two looks for the workers' code, while another process compiles it.
POLL_INTERVAL = 0.05
#: Seconds that `ThreadPool.close` waits for workers, which may have a job of another thread to finish.
CLOSING = 1.0


class ThreadPool:
    """A fixed number of threads that share the jobs of the host kernels.

    Parameters
    ----------
    n_threads : int
        Number of threads, the calling one included. At most 256; 1 on systems without POSIX threads.
    patience : float, optional
        Share every job, whatever other programs do, and give workers this many seconds to begin their tasks. For tests.

    Attributes
    ----------
    n_threads : int
        Number of threads.

    Notes
    -----
    Any number of threads may call `run`, at the same time too: one of them gets the workers, the others run their jobs
    alone. A forked child has only the thread that forked, and starts workers of its own.
    """

    def __init__(self, n_threads: int, *, patience: float | None = None) -> None:
        self.n_threads = min(n_threads, job_slot.MAX_THREADS) if HAS_POSIX_THREADS else 1
        self._patience = patience
        self._begin()

    def reset(self) -> None:
        """Begin with a new slot and no workers, as a forked child must: it has copies of both, but no such threads."""
        # A signal handler that forks may return, in the child, to a `run` that has read the old slot. It finds the slot
        # in use and works alone: the slot's mutex may have been locked by a thread that does not exist in the child.
        self._words[job_slot.LOCK // 8] = 1
        self._begin()

    def _begin(self) -> None:
        # with room to begin at a cache line
        words = np.zeros(job_slot.slot_words(self.n_threads) + 8, dtype=np.int64)
        words = words[-words.ctypes.data % 64 // 8 :]
        words[job_slot.N_THREADS // 8] = self.n_threads
        # more threads than processors: a thread that spins keeps one from working
        words[job_slot.SPINS // 8] = SPINS if self.n_threads <= usable_processors() else 0
        words[job_slot.BACK_OFF // 8] = self._patience is None
        words[job_slot.PATIENCE // 8] = PATIENCE if self._patience is None else int(1e9 * self._patience)
        words[job_slot.TAKE_BACK // 8] = 0 if self._patience is None else int(1e9 * self._patience)
        self._memory = words, int(words.ctypes.data)
        self._threads: dict[int, threading.Thread] = {}
        self._starting = threading.RLock()  # reentrant: a signal handler may call kernels, too
        self._retry_at = 0.0
        self._closed = self.n_threads == 1

    @property
    def _words(self) -> Any:
        """The job slot as an array of 64-bit words."""
        return self._memory[0]

    @property
    def tasks_of_workers(self) -> int:
        """Number of tasks that workers, not launching threads, have run."""
        return int(self._words[(job_slot.THREADS + job_slot.TASKS) // 8 :: job_slot.THREAD_BYTES // 8].sum())

    @property
    def serving(self) -> int:
        """Number of workers that are ready for tasks."""
        return int(self._words[job_slot.SERVING // 8])

    def run(self, n_tasks: int, job: Callable[[int, int, Any], bool], *operands: Any) -> None:
        """Run all tasks of a job and wait for them.

        Parameters
        ----------
        n_tasks : int
            Number of tasks, at most the number of threads. Fewer run at once, down to 1, where threads are missing.
        job : compiled function
            A kernel that `capgpu.kernels.cpu.parallel_job.parallel_job` has made.
        *operands
            What its tasks take.

        Raises
        ------
        MemoryError
            If a task could not allocate its temporary arrays. Outputs are then incomplete.
        """
        # the array together with its address: it keeps the slot alive in the child, if a signal handler forks here
        words, slot = self._memory
        missing = n_tasks > 1 and not self._closed and words[job_slot.SERVING // 8] < self.n_threads - 1
        if missing and monotonic() >= self._retry_at:
            # by a thread that no asynchronous exception is sent to: a worker that is just being started has the number
            # of the thread that starts it, and could receive that one's exception
            undisturbed(self._start_workers)
        if job(slot, n_tasks, operands):
            raise MemoryError(
                "expected memory for the temporary arrays of a parallel kernel, got none. Use smaller batches, or "
                "fewer threads (CAPGPU_THREADS)."
            )

    def compile_workers(self) -> None:
        """Compile what workers run, or load it, without starting any: also where this process has one thread."""
        _compile_workers(self._memory[1])

    def close(self) -> None:
        """Stop the workers. Jobs run on the calling thread alone from now on."""
        self._closed = True
        words, slot = self._memory
        words[job_slot.STOP // 8] = 1
        if words[job_slot.INITIALIZED // 8]:
            job_slot.wake_all(slot)
        end = monotonic() + CLOSING
        for thread in list(self._threads.values()):
            if thread.is_alive():
                thread.join(timeout=max(0.0, end - monotonic()))

    def _start_workers(self) -> None:
        """Start those workers that are not there: at first, and after a thread has ended or could not be started."""
        if not threading.main_thread().is_alive():
            return
        with self._starting:
            words, slot = self._memory
            if is_compiled_elsewhere(job_slot.serve, slot, 0):
                self._retry_at = monotonic() + POLL_INTERVAL
                return
            _compile_workers(slot)  # so that they need not
            for index in range(1, self.n_threads):
                thread = self._threads.get(index)
                if thread is not None and thread.is_alive():
                    continue
                thread = threading.Thread(target=_work, args=(words, index), name=f"capgpu-worker-{index}", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    self._retry_at = monotonic() + RETRY
                    warnings.warn(
                        f"expected to start {self.n_threads - 1} worker threads, got {index - 1} ({error}). Kernels "
                        "run on fewer threads; raise the limit on threads, or set CAPGPU_THREADS.",
                        RuntimeWarning,
                        stacklevel=2,
                    )
                    return
                self._threads[index] = thread


def _compile_workers(slot: int) -> None:
    job_slot.initialize(slot)
    job_slot.wake_all(slot)
    job_slot.serve(slot, 0)  # returns at once


def _work(words: Any, index: int) -> None:
    # the array, not its address: it keeps the slot alive while this thread uses it
    job_slot.serve(int(words.ctypes.data), index)


POOL = ThreadPool(thread_count())
# Before the interpreter ends: a worker that returned from compiled code later would wait for its lock forever.
atexit.register(POOL.close)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=POOL.reset)
