"""Contention back-off: run on one thread while other programs use the processors.

A job ends, and a recurrence advances, when its last thread arrives. On idle processors that takes microseconds. A
thread whose processor was given to another program arrives milliseconds late, repeatedly, and all others wait: two
threads are then slower than one. So each job's waiting time is noted; after repeated late arrivals jobs run on the
launching thread alone, at first for 20 ms, up to 1 s, then sharing is tried again. Results do not depend on it: a
parallel kernel gives the same bits for any number of threads.

Jobs with barriers and jobs without have a tracker each: a late thread delays the former at each step, and the latter
only once, at the end.

A tracker is four 64-bit words in the job slot (`capgpu.kernels.cpu.job_slot`), read and written only by the thread
that holds the slot: [0] time until which jobs run on one thread, [1] lateness, in 1024ths, [2] length of the next
back-off, [3] time since which jobs have been shared. Times are in nanoseconds of one clock.
"""

from __future__ import annotations

from capgpu.kernels.cpu.atomics import load, store
from capgpu.kernels.cpu.compile import compiled

__all__ = ["LATE", "LIMIT", "LONGEST", "ONE", "SHORTEST", "TRACKER_WORDS", "backs_off", "note_job"]

TRACKER_WORDS = 4
#: Waiting counts as late from this many nanoseconds, and from this many tenths of the job's time.
LATE, LATE_TENTHS = 200_000, 3
#: A late job adds 1 to the lateness, in 1024ths; each job multiplies it by 0.95. From the limit on, jobs back off.
ONE, DECAY, LIMIT = 1024, 973, 2048
#: Nanoseconds of a back-off, at first and at most. Each one doubles the next; each such time without one halves it.
SHORTEST, LONGEST = 20_000_000, 1_000_000_000


@compiled()
def backs_off(tracker: int, now: int) -> bool:
    """Return whether a job that starts now should run on the launching thread alone.

    Parameters
    ----------
    tracker : int
        Address of a tracker.
    now : int
        The time, ns.
    """
    return bool(now < load(tracker))


@compiled()
def note_job(tracker: int, now: int, took: int, waited: int) -> None:
    """Update a tracker by a job that was shared.

    Parameters
    ----------
    tracker : int
        Address of a tracker.
    now : int
        When the job ended, ns.
    took : int
        How long it took, ns.
    waited : int
        How long its threads waited for each other, ns.
    """
    lateness = load(tracker + 8) * DECAY // ONE
    period, since = max(load(tracker + 16), SHORTEST), load(tracker + 24)
    if waited <= max(LATE, took * LATE_TENTHS // 10):
        if now - since > period and period > SHORTEST:
            store(tracker + 16, max(SHORTEST, period // 2))
            store(tracker + 24, now)
    else:
        lateness += ONE
        if lateness >= LIMIT:
            store(tracker, now + period)
            store(tracker + 24, now + period)
            store(tracker + 16, min(LONGEST, 2 * period))
            lateness = 0
    store(tracker + 8, lateness)
