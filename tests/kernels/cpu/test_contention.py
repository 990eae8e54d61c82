"""When jobs run on one thread, and when they are shared again."""

from __future__ import annotations

import numpy as np
import pytest

from capgpu.kernels.cpu.contention import (
    LATE,
    LIMIT,
    LONGEST,
    ONE,
    SHORTEST,
    TRACKER_WORDS,
    backs_off,
    note_job,
)

MILLISECOND = 1_000_000


class Tracker:
    """A tracker in memory of its own."""

    def __init__(self):
        self.words = np.zeros(TRACKER_WORDS, np.int64)

    def note(self, now, took, waited):
        note_job(self.words.ctypes.data, int(now), int(took), int(waited))

    def backs_off(self, now):
        return backs_off(self.words.ctypes.data, int(now))

    @property
    def until(self):
        return int(self.words[0])


def back_off(tracker, now):
    """Note late jobs until jobs back off; return when that begins, and how many jobs it took."""
    for count in range(1, 100):
        tracker.note(now, 5 * MILLISECOND, 4 * MILLISECOND)
        if tracker.backs_off(now):
            return now, count
        now += MILLISECOND
    raise AssertionError("never backs off")


def test_jobs_without_waiting_are_always_shared():
    tracker = Tracker()
    for step in range(10_000):
        tracker.note(step * MILLISECOND, MILLISECOND, MILLISECOND / 20)
    assert not tracker.backs_off(10_000 * MILLISECOND)


@pytest.mark.parametrize(
    ("took", "waited"), [(1000 * MILLISECOND, 100 * MILLISECOND), (LATE / 2, LATE / 2)], ids=["a tenth", "a moment"]
)
def test_short_waiting_does_not_count_as_late(took, waited):
    tracker = Tracker()
    for step in range(1000):
        tracker.note(step * 1000 * MILLISECOND, took, waited)
    assert not tracker.backs_off(1_000_000 * MILLISECOND)


def test_one_late_job_in_a_hundred_does_not_matter():
    tracker = Tracker()
    for step in range(1000):
        tracker.note(step * MILLISECOND, MILLISECOND, MILLISECOND if step % 100 == 0 else 0)
        assert not tracker.backs_off(step * MILLISECOND)


def test_repeated_late_jobs_back_off():
    _, count = back_off(Tracker(), 0)
    assert 1 < count <= LIMIT // ONE + 1


def test_each_back_off_doubles_the_next_up_to_a_limit():
    tracker, now, periods = Tracker(), 0, []
    for _ in range(10):
        now, _ = back_off(tracker, now)
        periods.append(tracker.until - now)
        now = tracker.until
        assert not tracker.backs_off(now)
    assert periods[:2] == [SHORTEST, 2 * SHORTEST]
    assert periods[-1] == LONGEST
    assert periods == sorted(periods)


def test_jobs_without_waiting_make_the_next_back_off_short_again():
    tracker, now = Tracker(), 0
    for _ in range(10):
        now, _ = back_off(tracker, now)
        now = tracker.until
    for _ in range(10_000):
        now += MILLISECOND
        tracker.note(now, MILLISECOND, 0)
    now, _ = back_off(tracker, now)
    assert tracker.until - now == SHORTEST
