"""Dynamic batching: one thread owns the model and computes the requests that wait together.

A request passes three stages. `Batcher.admit` counts it before its body is read, so that a full queue costs no memory;
`Batcher.submit` puts it into the queue; the worker takes what waits, up to `max_batch` requests, and computes those
with equal settings in one call. A request never waits for others that might come: the worker waits, at most
`max_wait` seconds, only while other admitted requests are still being read.

Background tasks (captions of a whole split) run in the same thread, one at a time, when no request waits.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from capgpu.serve.problems import RequestError

__all__ = ["Batched", "Batcher"]

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Seconds after which a refused client may try again.
_RETRY_AFTER = 1


@dataclass(frozen=True)
class Batched(Generic[Result]):
    """The result of a request, and how it was computed.

    Attributes
    ----------
    value
        The result.
    batch : int
        Number of requests that were computed in the same call.
    waited, computed : float
        Seconds in the queue, and of the call.
    """

    value: Result
    batch: int
    waited: float
    computed: float


@dataclass
class _Job(Generic[Item, Result]):
    key: Hashable
    item: Item
    future: Future[Batched[Result]] = field(default_factory=Future)
    submitted: float = field(default_factory=time.perf_counter)


class Batcher(Generic[Item, Result]):
    """A thread that computes requests in batches.

    Parameters
    ----------
    compute : callable
        ``compute(key, items) -> results``: one result per item, in order; an exception in place of a result fails that
        request alone. Called in the thread of the batcher only.
    max_batch : int
        Requests that are computed in one call at most.
    max_wait : float
        Seconds for which the worker waits at most for requests that are being read.
    max_requests : int
        Requests that are read, wait or are computed at a time; more are refused with status 503.
    """

    def __init__(
        self,
        compute: Callable[[Any, Sequence[Item]], Sequence[Result | Exception]],
        *,
        max_batch: int = 32,
        max_wait: float = 0.005,
        max_requests: int = 256,
    ) -> None:
        self._compute = compute
        self._max_batch, self._max_wait, self._max_requests = max_batch, max_wait, max_requests
        self._changed = threading.Condition()
        self._admitted = 0  # requests between admission and their end
        self._arriving = 0  # those of them that are not in the queue yet
        self._queue: deque[_Job[Item, Result]] = deque()
        self._tasks: deque[tuple[Callable[[], Any], Future[Any]]] = deque()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="capgpu-serve-worker", daemon=True)
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether requests are being computed."""
        return self._thread.is_alive() and not self._closed

    @contextmanager
    def admit(self) -> Iterator[Callable[[Hashable, Item], Future[Batched[Result]]]]:
        """Count a request inside a ``with`` block, from before it is read until it is answered.

        Yields
        ------
        callable
            ``submit(key, item)``, to be called at most once: it queues the request and returns a future of `Batched`.
            Cancelling the future removes the request from the queue.

        Raises
        ------
        RequestError
            With status 503, if too many requests are in progress or the server stops.
        """
        arriving = True

        def arrive() -> None:
            nonlocal arriving
            if arriving:
                arriving = False
                self._arriving -= 1
                self._changed.notify()

        def submit(key: Hashable, item: Item) -> Future[Batched[Result]]:
            job: _Job[Item, Result] = _Job(key, item)
            with self._changed:
                if self._closed:
                    raise _stopping()
                self._queue.append(job)
                arrive()
            return job.future

        with self._changed:
            if self._closed:
                raise _stopping()
            if self._admitted >= self._max_requests:
                raise RequestError(
                    503,
                    f"{self._admitted} requests are in progress, as many as the server accepts. Try again in a moment.",
                    retry_after=_RETRY_AFTER,
                )
            self._admitted += 1
            self._arriving += 1
        try:
            yield submit
        finally:
            with self._changed:
                self._admitted -= 1
                arrive()

    def run_when_idle(self, task: Callable[[], Any]) -> Future[Any]:
        """Run a task in the thread of the batcher when no request waits.

        Parameters
        ----------
        task : callable
            Called without arguments.

        Returns
        -------
        concurrent.futures.Future
            Of what the task returns.
        """
        future: Future[Any] = Future()
        with self._changed:
            if self._closed:
                future.cancel()
                return future
            self._tasks.append((task, future))
            self._changed.notify()
        return future

    def close(self) -> None:
        """Fail the requests that wait, and return when the one in progress has ended. May be called repeatedly."""
        with self._changed:
            self._closed = True
            jobs, self._queue = self._queue, deque()
            tasks, self._tasks = self._tasks, deque()
            self._changed.notify()
        for job in jobs:
            if job.future.set_running_or_notify_cancel():
                job.future.set_exception(_stopping())
        for _, future in tasks:
            future.cancel()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._closed or self._queue or self._tasks):
                    self._changed.wait()
                if self._closed:
                    return
                jobs = self._take() if self._queue else []
                task = self._tasks.popleft() if not jobs and self._tasks else None
            if task is not None:
                _complete(*task)
            groups: dict[Hashable, list[_Job[Item, Result]]] = {}
            for job in jobs:
                if job.future.set_running_or_notify_cancel():
                    groups.setdefault(job.key, []).append(job)
            for key, group in groups.items():
                self._answer(key, group)

    def _take(self) -> list[_Job[Item, Result]]:
        """Remove the next batch from the queue; the lock is held."""
        deadline = time.perf_counter() + self._max_wait
        while self._arriving and len(self._queue) < self._max_batch and not self._closed:
            remaining = deadline - time.perf_counter()
            if remaining <= 0 or not self._changed.wait(remaining):
                break
        return [self._queue.popleft() for _ in range(min(len(self._queue), self._max_batch))]

    def _answer(self, key: Hashable, group: list[_Job[Item, Result]]) -> None:
        start = time.perf_counter()
        results: Sequence[Result | Exception]
        try:
            results = self._compute(key, [job.item for job in group])
            if len(results) != len(group):
                raise RuntimeError(f"compute: expected {len(group)} results, got {len(results)}.")
        except Exception as error:  # whatever fails, its requests are answered and the worker goes on
            results = [error] * len(group)
        seconds = time.perf_counter() - start
        for job, result in zip(group, results, strict=True):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(Batched(result, len(group), start - job.submitted, seconds))


def _complete(task: Callable[[], Any], future: Future[Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(task())
    except Exception as error:  # kept in the future; the worker goes on
        future.set_exception(error)


def _stopping() -> RequestError:
    return RequestError(503, "The server is stopping.", retry_after=_RETRY_AFTER)
