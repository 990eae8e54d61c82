"""Ranks that are threads of the test's process: their communicator, and a function that runs them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from capgpu.distributed import Communicator

_SECONDS = 60  # a test that hangs fails


class _Exchange:
    """Exchanges values between threads: each gives one, and gets those of all."""

    def __init__(self, size: int) -> None:
        self._values: list[Any] = [None] * size
        self._barrier = threading.Barrier(size, timeout=_SECONDS)

    def exchange(self, rank: int, value: Any) -> list[Any]:
        self._values[rank] = value
        self._barrier.wait()
        values = list(self._values)
        self._barrier.wait()
        return values

    def leave(self) -> None:
        self._barrier.abort()


class ThreadCommunicator(Communicator):
    """The communicator of a thread, for arrays on the host."""

    def __init__(self, exchange: _Exchange, rank: int, size: int) -> None:
        self._exchange, self.rank, self.size = exchange, rank, size
        self.local_rank, self.local_size = rank, size

    def start_all_reduce(self, array: Any, *, patient: bool = False) -> Any:
        parts = self._exchange.exchange(self.rank, array.copy())
        array[...] = np.sum(parts, axis=0, dtype=array.dtype)
        return super().start_all_reduce(array, patient=patient)

    def barrier(self) -> None:
        self._exchange.exchange(self.rank, None)

    def gather(self, value: Any) -> list[Any]:
        return [json.loads(text) for text in self._exchange.exchange(self.rank, json.dumps(value))]

    def from_root(self, function: Callable[[], Any]) -> Any:
        result: Any = None
        failure: Exception | None = None
        if self.rank == 0:
            try:
                result = function()
            except Exception as error:
                failure = error
        result, failure = self._exchange.exchange(self.rank, (result, failure))[0]
        if failure is not None:
            raise failure
        return result


def run_ranks(size: int, function: Callable[[Communicator], Any]) -> list[Any]:
    """Call a function in several threads with their communicators; return the results, or raise the first error."""
    exchange = _Exchange(size)

    def run(rank: int) -> Any:
        try:
            return function(ThreadCommunicator(exchange, rank, size))
        except BaseException:
            exchange.leave()
            raise

    with ThreadPoolExecutor(size) as pool:
        futures = [pool.submit(run, rank) for rank in range(size)]
        errors = [error for future in futures if (error := future.exception()) is not None]
    causes = [error for error in errors if not isinstance(error, threading.BrokenBarrierError)]
    for error in causes or errors:
        raise error
    return [future.result() for future in futures]
