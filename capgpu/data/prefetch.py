"""Prefetching: a thread computes the next items while the current one is used."""

from __future__ import annotations

from collections import deque
from collections.abc import Generator, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

__all__ = ["prefetch"]

T = TypeVar("T")

_AHEAD = 2
_END: Any = object()


def prefetch(items: Iterable[T]) -> Generator[T, None, None]:
    """Yield items that a thread computes in advance, at most two of them.

    Parameters
    ----------
    items : iterable
        Only the thread iterates over it, one item at a time, beginning with the first request.

    Yields
    ------
    item
        The same items in the same order. An exception raised by an item is raised in its place, with its traceback.

    Notes
    -----
    The thread ends with the generator: when it is exhausted, closed, or raises. Closing waits for the item in progress;
    no other is started. Use ``contextlib.closing`` if a loop may be left early.
    """
    source = iter(items)
    pool = ThreadPoolExecutor(1, thread_name_prefix="capgpu-prefetch")
    try:
        waiting = deque(pool.submit(next, source, _END) for _ in range(_AHEAD))
        while (item := waiting.popleft().result()) is not _END:
            waiting.append(pool.submit(next, source, _END))
            yield item
    finally:
        pool.shutdown(cancel_futures=True)
