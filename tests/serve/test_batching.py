"""The thread that owns the model: what it computes together, what it refuses, and how it ends."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

pytest.importorskip("starlette")

from capgpu.serve.batching import Batcher
from capgpu.serve.problems import RequestError


class Recorder:
    """A model that notes its batches, and computes when the test lets it."""

    def __init__(self) -> None:
        self.batches: list[tuple[Any, list[int]]] = []
        self.go = threading.Event()
        self.begun = threading.Event()

    def __call__(self, key: Any, items: Sequence[int]) -> list[int | Exception]:
        self.begun.set()
        assert self.go.wait(30)
        self.batches.append((key, list(items)))
        if key == "fails":
            raise ValueError("all of them")
        return [ValueError("this one") if item < 0 else 10 * item for item in items]


@pytest.fixture
def model() -> Recorder:
    return Recorder()


@pytest.fixture
def batcher(model: Recorder) -> Iterator[Batcher[int, int]]:
    made: Batcher[int, int] = Batcher(model, max_batch=4, max_wait=5.0, max_requests=8)
    yield made
    model.go.set()
    made.close()


def send(batcher: Batcher[int, int], key: str, item: int) -> Any:
    with batcher.admit() as submit:
        return submit(key, item)


def occupy(batcher: Batcher[int, int], model: Recorder) -> Any:
    """Keep the thread busy until the test lets it go on."""
    first = send(batcher, "first", 0)
    assert model.begun.wait(30)
    return first


def test_requests_that_wait_are_computed_together_by_their_settings(batcher: Any, model: Recorder) -> None:
    occupy(batcher, model)
    futures = [send(batcher, key, i) for i, key in enumerate("aabba")]
    model.go.set()
    assert [future.result(30).value for future in futures] == [0, 10, 20, 30, 40]
    assert model.batches[1:] == [("a", [0, 1]), ("b", [2, 3]), ("a", [4])]  # at most four are taken at a time
    assert futures[0].result().batch == 2


def test_the_thread_waits_for_requests_that_are_being_read(batcher: Any, model: Recorder) -> None:
    model.go.set()
    with batcher.admit() as submit_late:
        early = send(batcher, "a", 1)
        assert not early.done()
        late = submit_late("a", 2)
        assert [early.result(30).value, late.result(30).value] == [10, 20]
    assert model.batches == [("a", [1, 2])]


def test_a_request_that_fails_while_it_is_read_delays_no_other(batcher: Any, model: Recorder) -> None:
    model.go.set()

    def give_up() -> None:
        with batcher.admit():
            entered.set()
            assert sent.wait(30)
            raise RequestError(413, "too large")

    entered, sent = threading.Event(), threading.Event()
    thread = threading.Thread(target=pytest.raises, args=(RequestError, give_up))
    thread.start()
    assert entered.wait(30)
    future = send(batcher, "a", 1)
    sent.set()
    assert future.result(4).value == 10  # before max_wait has passed
    thread.join()


def test_too_many_requests_are_refused_and_room_is_made_again(batcher: Any, model: Recorder) -> None:
    def fill(remaining: int, then: Callable[[], None]) -> None:
        if remaining == 0:
            then()
            return
        with batcher.admit():
            fill(remaining - 1, then)

    def refused() -> None:
        with pytest.raises(RequestError) as caught, batcher.admit():
            pass
        assert (caught.value.status, caught.value.retry_after) == (503, 1)

    fill(8, refused)
    model.go.set()
    assert send(batcher, "a", 1).result(30).value == 10


def test_errors_reach_their_own_requests_only(batcher: Any, model: Recorder) -> None:
    occupy(batcher, model)
    good, bad, failed = send(batcher, "a", 1), send(batcher, "a", -1), send(batcher, "fails", 1)
    model.go.set()
    assert good.result(30).value == 10
    with pytest.raises(ValueError, match="this one"):
        bad.result(30)
    with pytest.raises(ValueError, match="all of them"):
        failed.result(30)
    assert send(batcher, "a", 3).result(30).value == 30


def test_a_wrong_number_of_results_fails_its_requests_and_not_the_thread() -> None:
    counts = iter([0, 1])
    batcher: Batcher[int, int] = Batcher(lambda key, items: [7] * next(counts))
    with pytest.raises(RuntimeError, match="compute: expected 1 results, got 0"):
        send(batcher, "a", 1).result(30)
    assert send(batcher, "a", 2).result(30).value == 7
    assert batcher.alive
    batcher.close()


def test_a_client_that_goes_away_is_not_computed(batcher: Any, model: Recorder) -> None:
    occupy(batcher, model)
    gone, stays = send(batcher, "a", 1), send(batcher, "a", 2)
    assert gone.cancel()
    model.go.set()
    assert stays.result(30).value == 20
    assert model.batches[1:] == [("a", [2])]


def test_tasks_run_when_no_request_waits(batcher: Any, model: Recorder) -> None:
    occupy(batcher, model)
    order: list[str] = []
    task = batcher.run_when_idle(lambda: order.append("task") or len(model.batches))
    request = send(batcher, "a", 1)
    model.go.set()
    assert task.result(30) == 2
    assert request.done()
    failing = batcher.run_when_idle(lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        failing.result(30)
    assert send(batcher, "a", 1).result(30).value == 10


def test_closing_ends_the_batch_in_progress_and_refuses_the_rest(batcher: Any, model: Recorder) -> None:
    running = occupy(batcher, model)
    waiting, task = send(batcher, "a", 1), batcher.run_when_idle(lambda: None)
    closing = threading.Thread(target=batcher.close)
    closing.start()
    with pytest.raises(RequestError, match="stopping"):
        waiting.result(30)
    assert task.cancelled()
    model.go.set()
    closing.join(30)
    assert running.result().value == 0
    assert not batcher.alive
    with pytest.raises(RequestError, match="stopping"):
        send(batcher, "a", 1)
    assert batcher.run_when_idle(lambda: None).cancelled()
