"""Prefetching: the same items in the same order, never too many, and no thread that stays."""

from __future__ import annotations

import gc
import threading
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import pytest

from capgpu.data.prefetch import prefetch


def helpers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("capgpu-prefetch")]


@pytest.fixture(autouse=True)
def nothing_stays() -> Iterator[None]:
    assert helpers() == []
    yield
    assert helpers() == []


class Counted:
    """Counts up to a limit, on request, and tells how many numbers it has given and on which threads."""

    def __init__(self, limit: int, fails_at: int | None = None) -> None:
        self.limit, self.fails_at = limit, fails_at
        self.given = 0
        self.threads: set[str] = set()
        self.changed = threading.Condition()

    def __iter__(self) -> Iterator[int]:
        for number in range(self.limit):
            if number == self.fails_at:
                raise OSError("the disk is gone")
            with self.changed:
                self.given += 1
                self.threads.add(threading.current_thread().name)
                self.changed.notify_all()
            yield number

    def wait_for(self, given: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: self.given >= given, timeout=30)


@pytest.mark.parametrize("limit", [0, 1, 2, 3, 100])
def test_all_items_come_in_their_order_from_one_thread(limit: int) -> None:
    items = Counted(limit)
    assert list(prefetch(items)) == list(range(limit))
    assert len(items.threads) == (limit > 0)
    assert threading.current_thread().name not in items.threads


def test_a_slow_consumer_has_two_items_made_ahead_and_no_more() -> None:
    items = Counted(50)
    with closing(prefetch(items)) as ahead:
        for number in range(10):
            assert next(ahead) == number
            items.wait_for(number + 3)  # both come without being asked for
            assert items.given == number + 3


def test_what_the_producer_raises_comes_in_its_place_with_its_traceback() -> None:
    ahead = prefetch(Counted(50, fails_at=3))
    assert [next(ahead) for _ in range(3)] == [0, 1, 2]
    with pytest.raises(OSError, match="the disk is gone") as raised:
        next(ahead)
    assert any("__iter__" in frame.name for frame in traceback.extract_tb(raised.value.__traceback__))


def test_what_cannot_be_gone_through_is_refused_before_a_thread_starts() -> None:
    with pytest.raises(TypeError, match="not iterable"):
        next(prefetch(3))  # type: ignore[arg-type]


@pytest.mark.parametrize("taken", [0, 1, 5])
def test_a_consumer_that_leaves_early_ends_the_thread_and_begins_no_other_item(taken: int) -> None:
    items = Counted(10**9)
    with closing(prefetch(items)) as ahead:
        for _ in range(taken):
            next(ahead)
    assert items.given <= taken + 2
    assert helpers() == []


def test_a_consumer_that_fails_ends_the_thread() -> None:
    def consume() -> None:
        with closing(prefetch(Counted(10**9))) as ahead:
            for number in ahead:
                if number == 4:
                    raise RuntimeError("mine")

    with pytest.raises(RuntimeError, match="mine"):
        consume()
    assert helpers() == []


def test_closing_waits_for_the_item_at_hand_and_begins_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    closed, at_hand, begun = threading.Event(), threading.Event(), []

    class Watched(ThreadPoolExecutor):
        def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
            super().shutdown(wait=False, cancel_futures=cancel_futures)
            closed.set()
            super().shutdown(wait)

    def items() -> Iterator[int]:
        for number in range(10):
            begun.append(number)
            if number == 1:
                at_hand.set()
                assert closed.wait(timeout=30)
            yield number

    monkeypatch.setattr("capgpu.data.prefetch.ThreadPoolExecutor", Watched)
    with closing(prefetch(items())) as ahead:
        next(ahead)
        assert at_hand.wait(timeout=30)
    assert begun == [0, 1]


def test_a_generator_that_is_forgotten_ends_the_thread() -> None:
    ahead = prefetch(Counted(10**9))
    next(ahead)
    assert len(helpers()) == 1
    del ahead
    gc.collect()
    assert helpers() == []


def test_no_thread_starts_before_the_first_request() -> None:
    items = Counted(5)
    ahead = prefetch(items)
    assert helpers() == []
    assert items.given == 0
    ahead.close()
