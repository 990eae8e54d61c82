"""The job slot: the words through which a thread publishes the tasks of a parallel kernel to workers.

A *job* is one execution of a parallel kernel: some tasks of the same machine code on the same arguments. The thread
that runs it is the *launcher*; it runs task 0 itself. A whole job is one compiled call, `run_job`: it publishes the
job, runs the launcher's task, takes back the tasks that no worker has begun, and returns when no worker runs any. No
Python bytecode is executed in between. An asynchronous exception (of a signal handler, or by
`PyThreadState_SetAsyncExc`) is therefore raised before the job or after it, and no worker ever uses arguments that the
launcher's caller has freed.

Layout
------
The slot is an array of 64-bit words that starts on a cache line (64 bytes). Words that different threads write at the
same time are in different lines. Offsets in bytes::

      0  EPOCH LOCK          64  CODE DATA COUNT GO    128  FAILED             192  SLEEPERS SERVING
    256  STOP SPINS PATIENCE TAKE_BACK BACK_OFF ZERO N_THREADS INITIALIZED
    320  tracker of jobs without barriers              384  tracker of jobs with barriers
    448  MUTEX                                         576  CONDITION
    704  thread 0, the launcher                        832  thread 1      ...  704 + 128 i  thread i
         +0  STATE RANK WAITED ALIVE TASKS GO_WAITED   +64  FLAGS, one word for each round of a barrier

A job
-----
::

    launcher                                        worker
    LOCK 0 -> 1
    EPOCH, CODE, DATA, COUNT, FAILED
    (no barriers: GO)
    STATE = OFFERED                ------------->   compare-exchange: RUNNING
    SLEEPERS > 0: wakes all        ------------->   (asleep: wakes up and looks at STATE)
    barriers: waits PATIENCE for RUNNING,
      takes the other offers back,
      RANK, COUNT, GO              ------------->   waits for GO; reads RANK, COUNT, CODE, DATA
    runs task 0           <--- FLAGS: barriers --->   runs its task
    (no barriers: takes back and
      runs tasks still OFFERED)
    waits for RUNNING workers      <-------------   STATE = FINISHED
    LOCK 1 -> 0

States
------
Each worker has a word STATE = 4 * epoch + state, where the epoch numbers the jobs of the slot::

    FINISHED --launcher: offers a task------------------------> OFFERED
    OFFERED  --worker: compare-exchange, begins---------------> RUNNING --worker: has run the task--> FINISHED
    OFFERED  --launcher: compare-exchange, takes it back------> FINISHED

- A worker reads the job (CODE, DATA, ...) only in RUNNING; the launcher writes the job only while all are FINISHED.
  If a worker begins a task while the launcher takes it back, exactly one compare-exchange succeeds. The epoch in the
  word prevents an ABA error: a worker that was preempted between its load and its compare-exchange while the job ended
  fails, although the state is OFFERED again.
- RUNNING lasts as long as the task. The worker is in compiled code that needs no interpreter lock and propagates no
  exception, so it reaches FINISHED. The launcher waits only for RUNNING workers: its waiting is bounded.
- A worker that is asleep, dead, preempted, or was never started leaves its task OFFERED (or is not ALIVE and is
  offered none). The launcher runs that task itself.
- Tasks with barriers have to run concurrently. The launcher waits PATIENCE for workers to begin, takes the other offers
  back, gives the threads that are present consecutive ranks, and then writes GO, for which workers wait in RUNNING.
- A failed task sets FAILED. Threads at a barrier see it and return, so that none waits for the failed one.

Writers of each word
--------------------
========================  ==========================================================================================
LOCK                      a launcher, by compare-exchange 0 -> 1; the same launcher, 1 -> 0, in the same compiled
                          call. A launcher that finds 1 runs its job alone
EPOCH, CODE, DATA, RANK   the holder of LOCK, while no worker is RUNNING; RANK also between OFFERED and GO
COUNT, GO                 the holder of LOCK, before OFFERED, or with barriers after all offers have been decided
FAILED                    0: the holder of LOCK, before OFFERED. 1: any thread of the job
WAITED (of a rank)        0: the holder of LOCK, before OFFERED. Else the thread of this rank
FLAGS (of a rank)         the thread of this rank, values that increase from job to job. 0, every `PERIOD` jobs: the
                          holder of LOCK, before OFFERED
STATE                     launcher and worker, as above
ALIVE, TASKS, GO_WAITED   the worker
SLEEPERS                  workers that hold MUTEX
SERVING                   workers, when they begin and end to serve, by atomic addition
trackers                  the holder of LOCK (`capgpu.kernels.cpu.contention`)
STOP, SPINS, PATIENCE     Python (`capgpu.kernels.cpu.thread_pool`); all but STOP before the first worker is started
TAKE_BACK, BACK_OFF
N_THREADS
INITIALIZED               `initialize`, which one thread at a time calls
ZERO                      none: it is always 0
========================  ==========================================================================================

Memory order: each `load` is an acquire, each `store` a release, `compare_exchange` is both. Comments at the stores and
fences on which threads rely say what breaks without them.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from capgpu.kernels.cpu import system_calls
from capgpu.kernels.cpu.atomics import add, compare_exchange, fence, load, pause, store
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.contention import backs_off, note_job
from capgpu.kernels.cpu.symbols import by_symbol
from capgpu.kernels.cpu.system_calls import nanoseconds, yield_processor
from capgpu.kernels.cpu.task_code import call_task

__all__ = ["MAX_THREADS", "barrier", "initialize", "run_job", "serve", "slot_words", "wake_all"]

# Offsets in bytes. Words that different threads write at the same time lie in different cache lines of 64 bytes.
EPOCH, LOCK, CODE, DATA, COUNT, GO = 0, 8, 64, 72, 80, 88
FAILED, SLEEPERS, SERVING = 128, 192, 200
STOP, SPINS, PATIENCE, TAKE_BACK, BACK_OFF, ZERO = 256, 264, 272, 280, 288, 296
N_THREADS, INITIALIZED = 304, 312
TRACKERS, TRACKER_BYTES = 320, 64
MUTEX, CONDITION = 448, 576
THREADS, THREAD_BYTES = 704, 128
# Offsets within a thread's part
STATE, RANK, WAITED, ALIVE, TASKS, GO_WAITED, FLAGS = 0, 8, 16, 24, 32, 40, 64

#: 2**8: a thread's part has `FLAG_WORDS` = 8 words, one for each round of a barrier.
MAX_THREADS = 256
#: Low bits of STATE.
OFFERED, RUNNING, FINISHED = 1, 2, 3
#: Index of the launcher's task. Not a literal, for which Numba would compile functions again.
LAUNCHER: Any = np.int64(0)
#: Rounds of a spin, about 50 us, after which a waiting thread yields its processor.
ROUNDS = 2000
#: A flag is (epoch modulo `PERIOD`) << `STEP_BITS` | number of the barrier: 38 + 24 bits, positive as a signed word.
PERIOD, STEP_BITS, FLAG_WORDS = 1 << 38, 24, 8


def slot_words(n_threads: int) -> int:
    """Return the size of a job slot in 64-bit words."""
    return (THREADS + THREAD_BYTES * n_threads) // 8


@compiled(inline=True)
def _part(slot: int, index: int) -> int:
    """Return the address of a thread's part of the slot."""
    return slot + THREADS + THREAD_BYTES * index


@compiled()
def initialize(slot: int) -> None:
    """Initialize the mutex and the condition variable of a zeroed slot, once: later calls do nothing.

    One compiled call, so that a signal handler that runs kernels cannot start workers between the test and the
    initialization. A condition variable that is initialized while workers sleep on it would never wake them.
    """
    if load(slot + INITIALIZED):
        return
    store(slot + INITIALIZED, 1)
    system_calls.mutex_init(slot + MUTEX)
    system_calls.condition_init(slot + CONDITION)


@compiled()
def wake_all(slot: int) -> None:
    """Wake all sleeping workers."""
    # Under the mutex: without it a worker between its test of STATE and condition_wait would miss the broadcast.
    system_calls.mutex_lock(slot + MUTEX)
    system_calls.condition_broadcast(slot + CONDITION)
    system_calls.mutex_unlock(slot + MUTEX)


@compiled()
def _sleep(slot: int, part: int) -> None:
    """Sleep until a task is offered or the pool stops."""
    system_calls.mutex_lock(slot + MUTEX)
    store(slot + SLEEPERS, load(slot + SLEEPERS) + 1)
    # Orders the store to SLEEPERS before the load of STATE; the launcher's fence orders its store to STATE before its
    # load of SLEEPERS. Without both fences each may miss the other's store: the worker sleeps, and the launcher does
    # not wake it.
    fence()
    while load(part + STATE) & 3 != OFFERED and load(slot + STOP) == 0:
        system_calls.condition_wait(slot + CONDITION, slot + MUTEX)
    store(slot + SLEEPERS, load(slot + SLEEPERS) - 1)
    system_calls.mutex_unlock(slot + MUTEX)


@compiled()
def _wait(slot: int, address: int, value: int, waited: int, failed: int) -> bool:
    """Wait until a word is at least `value`; return False if the word at `failed` becomes nonzero first.

    The time after the spin, in nanoseconds, is added to the word at `waited`.
    """
    rounds, limit = 0, min(ROUNDS, load(slot + SPINS))
    while rounds < limit and load(address) < value:
        if load(failed):
            return False
        rounds += 1
        pause()
    if load(address) >= value:
        return True
    since = nanoseconds()
    while load(address) < value:
        if load(failed):
            return False
        yield_processor()
    store(waited, load(waited) + nanoseconds() - since)
    return True


@compiled()
def barrier(slot: int, index: int, count: int, step: int) -> bool:
    """Wait until all tasks of a job have reached a barrier.

    Parameters
    ----------
    slot : int
        Address of the job slot, as the task received it.
    index, count : int
        This task, of how many.
    step : int
        Number of the barrier in the job: 1, 2, ... below 2**24.

    Returns
    -------
    bool
        False if a task of the job has failed: results are missing, and the caller must return.

    Notes
    -----
    A dissemination barrier (Hensgen, Finkel and Manber 1988): in round r a thread sets its flag r and waits for flag r
    of the thread 2**r before it, modulo `count`. After ceil(log2(count)) rounds it has, directly or through others, a
    signal of every thread. With 4 threads, thread 0 waits for 3 in round 0 and for 2 in round 1; thread 2 has by then
    waited for 1. Values contain the epoch: flags of earlier jobs are lower and need not be cleared. Every `PERIOD`
    jobs all are cleared and the values restart at 0: from 2**39 jobs on they would be negative, and no thread would
    wait.
    """
    return count == 1 or bool(_call_barrier((slot, index, count, step)))


def _barrier(slot: int, index: int, count: int, step: int) -> bool:
    value, part = (load(slot + EPOCH) % PERIOD << STEP_BITS) + step, _part(slot, index)
    distance, flag = 1, FLAGS
    while distance < count:
        # Release: without it a thread that passes the barrier could read rows that this one has not yet written.
        store(part + flag, value)
        other = _part(slot, (index + count - distance) % count)
        # Acquire, in _wait: without it this thread could have read the others' rows before they were written.
        if not _wait(slot, other + flag, value, part + WAITED, slot + FAILED):
            return False
        distance *= 2
        flag += 8
    return True


_call_barrier = by_symbol(_barrier, types.boolean(*[types.int64] * 4))


@compiled()
def _run_task(slot: int, index: int, count: int) -> None:
    if call_task(load(slot + CODE), index, count, slot, load(slot + DATA)):
        store(slot + FAILED, 1)


@compiled()
def run_job(slot: int, n_tasks: int, job: Any) -> bool:
    """Run all tasks of a job; return when none is running.

    Parameters
    ----------
    slot : int
        Address of the job slot.
    n_tasks : int
        Number of tasks, at most the number of threads of the slot.
    job : tuple of int
        What `capgpu.kernels.cpu.task_code.describe_job`'s code returned.

    Returns
    -------
    bool
        Whether a task failed: results are then missing.
    """
    code, data, barriers = job
    return bool(_call_run_job((slot, n_tasks, code, data, barriers)))


def _run_job(slot: int, n_tasks: int, code: int, data: int, barriers: int) -> bool:
    if n_tasks > 1 and compare_exchange(slot + LOCK, 0, 1):
        tracker, start = slot + TRACKERS + TRACKER_BYTES * barriers, nanoseconds()
        if load(slot + BACK_OFF) == 0 or not backs_off(tracker, start):
            store(slot + CODE, code)
            store(slot + DATA, data)
            waited = _share(slot, n_tasks, barriers)
            end = nanoseconds()
            note_job(tracker, end, end - start, waited)
            failed = bool(load(slot + FAILED) != 0)
            # Release: without it the next launcher could clear FAILED, or write to the tracker, before this one's last
            # accesses to them.
            store(slot + LOCK, 0)
            return failed
        store(slot + LOCK, 0)
    # A single task computes everything. It does not access the slot, where another job may be running.
    return bool(call_task(code, 0, 1, slot, data))


# Called by a symbol, not linked into every kernel, which took a tenth of the compilation time. The call stays in
# compiled code of the same thread.
_call_run_job = by_symbol(_run_job, types.boolean(*[types.int64] * 5))


@compiled()
def _share(slot: int, n_tasks: int, barriers: int) -> int:
    """Run a job together with the workers; return the total time that its threads waited for each other, ns."""
    epoch = load(slot + EPOCH) + 1
    offered, finished = 4 * epoch + OFFERED, 4 * epoch + FINISHED
    store(slot + EPOCH, epoch)
    store(slot + FAILED, 0)
    store(slot + COUNT, n_tasks)
    if epoch % PERIOD == 0:
        _clear_flags(slot)
    if not barriers:
        store(slot + GO, epoch)
    for index in range(n_tasks):
        part = _part(slot, index)
        store(part + RANK, index)
        store(part + WAITED, 0)
        if index > 0 and load(part + ALIVE):
            # Release: without it a worker could see the offer and run the previous job's code on freed arguments.
            store(part + STATE, offered)
    # Orders the stores to STATE before the load of SLEEPERS: see _sleep.
    fence()
    if load(slot + SLEEPERS) > 0:
        wake_all(slot)

    _await_workers(slot, n_tasks, offered, load(slot + PATIENCE) if barriers else load(slot + TAKE_BACK))
    count = n_tasks
    if barriers:
        count = 1
        for index in range(1, n_tasks):
            part = _part(slot, index)
            if not compare_exchange(part + STATE, offered, finished) and load(part + STATE) > offered:
                store(part + RANK, count)
                count += 1
        store(slot + COUNT, count)
        # Release: without it a worker could read an old rank or count, and rows would be computed twice or never.
        store(slot + GO, epoch)
    _run_task(slot, LAUNCHER, count)
    if not barriers:
        for index in range(1, n_tasks):
            part = _part(slot, index)
            if compare_exchange(part + STATE, offered, finished) or load(part + STATE) < offered:
                _run_task(slot, index, count)

    for index in range(1, n_tasks):
        part = _part(slot, index)
        if load(part + STATE) > offered:
            # Acquire, in _wait: without it the caller could read results older than those of the worker. FAILED does
            # not end this wait, since the worker still uses the arguments.
            _wait(slot, part + STATE, finished, _part(slot, LAUNCHER) + WAITED, slot + ZERO)
    waited = 0
    for index in range(n_tasks):
        waited += load(_part(slot, index) + WAITED)
    return waited


@compiled()
def _clear_flags(slot: int) -> None:
    """Set the barriers' flags of all threads to 0."""
    for index in range(load(slot + N_THREADS)):
        for word in range(FLAG_WORDS):
            store(_part(slot, index) + FLAGS + 8 * word, 0)


@compiled()
def _await_workers(slot: int, n_tasks: int, offered: int, patience: int) -> None:
    """Wait at most `patience` ns until workers have begun all offered tasks."""
    if patience == 0:
        return
    end, rounds, limit = nanoseconds() + patience, 0, min(ROUNDS, load(slot + SPINS))
    for index in range(1, n_tasks):
        while load(_part(slot, index) + STATE) == offered and nanoseconds() < end:
            rounds += 1
            if rounds < limit:
                pause()
            else:
                yield_processor()


@compiled()
def serve(slot: int, index: int) -> None:
    """Run this worker's tasks until the pool stops.

    Parameters
    ----------
    slot : int
        Address of the job slot.
    index : int
        Index of the worker, from 1. Returns immediately for 0, the launcher, and if another thread has this index.
    """
    part = _part(slot, index)
    if index == 0 or not compare_exchange(part + ALIVE, 0, 1):
        return
    add(slot + SERVING, 1)
    idle = 0
    while load(slot + STOP) == 0:
        state = load(part + STATE)
        if state & 3 == OFFERED and compare_exchange(part + STATE, state, state + (RUNNING - OFFERED)):
            _wait(slot, slot + GO, state >> 2, part + GO_WAITED, slot + ZERO)
            _run_task(slot, load(part + RANK), load(slot + COUNT))
            store(part + TASKS, load(part + TASKS) + 1)
            # Release: without it the launcher's caller could read results that this task has not yet written.
            store(part + STATE, state + (FINISHED - OFFERED))
            idle = 0
        elif idle < load(slot + SPINS):
            idle += 1
            pause()
        else:
            _sleep(slot, part)
            idle = 0
    # Release: without it the next thread with this index could increment an old value of TASKS.
    store(part + ALIVE, 0)
    add(slot + SERVING, -1)
