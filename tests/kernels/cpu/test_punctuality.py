"""When the caller works alone, and when it goes back to sharing."""

from __future__ import annotations

import pytest

from capgpu.kernels.cpu.punctuality import HABIT, LATE, LONGEST, SHORTEST, Punctuality

MILLISECOND = 1e-3


def relapse(punctuality, now):
    """Come late until the caller works alone; return when that begins, and how many regions it took."""
    for count in range(1, 100):
        punctuality.note(now, 5 * MILLISECOND, 4 * MILLISECOND)
        if punctuality.alone(now):
            return now, count
        now += MILLISECOND
    raise AssertionError("never alone")


def test_threads_that_come_in_time_go_on_sharing():
    punctuality = Punctuality()
    for step in range(10_000):
        punctuality.note(step * MILLISECOND, MILLISECOND, 0.05 * MILLISECOND)
    assert not punctuality.alone(10.0)


@pytest.mark.parametrize(("took", "waited"), [(1.0, 0.1), (LATE / 2, LATE / 2)], ids=["a small part", "a moment"])
def test_what_does_not_count_as_late(took, waited):
    punctuality = Punctuality()
    for step in range(1000):
        punctuality.note(float(step), took, waited)
    assert not punctuality.alone(1000.0)


def test_a_single_late_arrival_is_forgiven():
    punctuality = Punctuality()
    for step in range(1000):
        punctuality.note(step * MILLISECOND, MILLISECOND, MILLISECOND if step % 100 == 0 else 0.0)
        assert not punctuality.alone(step * MILLISECOND)


def test_a_habit_is_not():
    _, count = relapse(Punctuality(), 0.0)
    assert 1 < count <= HABIT + 1


def test_each_relapse_doubles_the_time_alone_up_to_a_limit():
    punctuality, now, periods = Punctuality(), 0.0, []
    for _ in range(10):
        now, _ = relapse(punctuality, now)
        periods.append(punctuality.alone_until - now)
        now = punctuality.alone_until
        assert not punctuality.alone(now)
    assert periods[0] == pytest.approx(SHORTEST)
    assert periods[1] == pytest.approx(2 * SHORTEST)
    assert periods[-1] == pytest.approx(LONGEST)
    assert periods == sorted(periods)


def test_good_times_make_the_next_time_alone_short_again():
    punctuality, now = Punctuality(), 0.0
    for _ in range(10):
        now, _ = relapse(punctuality, now)
        now = punctuality.alone_until
    for _ in range(10_000):
        now += MILLISECOND
        punctuality.note(now, MILLISECOND, 0.0)
    now, _ = relapse(punctuality, now)
    assert punctuality.alone_until - now == pytest.approx(SHORTEST)
