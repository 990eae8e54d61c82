"""The next items are made on a thread while the present one is used."""

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
    """Go through items that a thread makes ahead of their use, at most two of them.

    Parameters
    ----------
    items : iterable
        Only the thread touches it, one item at a time, from the first request on.

    Yields
    ------
    item
        The same ones, in their order. What making one raises comes out in its place, with its traceback.

    Notes
    -----
    The thread lives as long as the generator: until it is exhausted or closed, or an error has come out of it. Closing
    waits for the item at hand, and no other is begun. Use ``contextlib.closing`` where a loop may be left early.
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
