"""Reused scratch arrays, so that a step allocates nothing after the first one of its shape.

Work on one stream is executed in order, so a call may overwrite what the previous one has read. Each thread and each
stream has its own scratch. Results that a caller keeps are not allocated here, except by `Workspace.scalar`.

Workspaces are keyed by the thread and the Stream object, not by the stream's pointer: per-thread default streams share
the pointer 2 in all threads, and CUDA reuses the pointer of a destroyed stream. A workspace lives as long as the Stream
object and the thread. Its memory then returns to CuPy's pool, which reuses memory that was allocated for a stream only
for later work of that stream, so queued work is not affected. A graph replays with the memory of the stream on which it
was captured: keep that Stream object, in the capturing thread, as long as the graph.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np

from capgpu.kernels.cuda.array_checks import allocate
from capgpu.kernels.cuda.pinned import PinnedMemory

__all__ = ["Workspace", "forget", "using", "workspace"]

_local = threading.local()
#: Elements of one allocation of scalars.
_SCALARS = 1024
#: Maximum number of cached views of a buffer: the batches of an epoch have different numbers of words.
_MAX_VIEWS = 64


class Workspace:
    """The scratch of one thread on one stream of one device."""

    def __init__(self) -> None:
        self._buffers: dict[str, Any] = {}
        self._views: dict[str, dict[tuple[Any, ...], Any]] = {}
        self._scalars: dict[str, tuple[Any, int]] = {}
        self._counters: Any = None
        #: Capacity by number of rows; see `capgpu.kernels.cuda.held_results`.
        self.capacities: Mapping[int, int] = {}
        #: Deferred column sums as (matrix, output); None outside `joint_column_sums`.
        self.pending_sums: list[tuple[Any, Any]] | None = None
        #: For copies from the host, on this workspace's stream.
        self.pinned = PinnedMemory()

    def capacity(self, rows: int) -> int:
        """Return the rows to allocate for an array of `rows` rows, of which later batches may have more."""
        return self.capacities.get(rows, rows)

    def take(self, name: str, shape: tuple[int, ...], dtype: Any, capacity: int | None = None) -> Any:
        """Return an uninitialised array, the same memory at each call by the same name.

        Parameters
        ----------
        name : str
            Name of the scratch array; two arrays in use at once need two names.
        shape : tuple of int
            Shape.
        dtype : dtype
            Element type.
        capacity : int, optional
            Elements to allocate, for later calls that need more; by default those of `self.capacity` rows.

        Returns
        -------
        cupy.ndarray
            C-contiguous, aligned like a new array.

        Raises
        ------
        DeviceMemoryError
            If the device has too little memory.
        """
        views = self._views.setdefault(name, {})
        view = views.get((shape, dtype))
        if view is not None:
            return view
        import cupy

        itemsize = np.dtype(dtype).itemsize
        count = 1
        for extent in shape:
            count *= extent
        buffer = self._buffers.get(name)
        if buffer is None or buffer.size < count * itemsize:
            if capacity is None:
                capacity = count // shape[0] * self.capacity(shape[0]) if count and shape else count
            views.clear()
            self._buffers.pop(name, None)
            del buffer  # its memory can then be part of the larger one
            buffer = allocate((max(count, capacity) * itemsize,), np.uint8, f"the scratch of {name}")
            self._buffers[name] = buffer
        if len(views) >= _MAX_VIEWS:
            views.clear()
        view = views[shape, dtype] = cupy.ndarray(shape, dtype, memptr=buffer.data)
        return view

    def scalar(self, dtype: Any) -> Any:
        """Return a zero-dimensional array whose memory is never reused, so that the caller may keep it.

        A training run keeps the loss of every step until it is read. Allocated separately, each would take 512 bytes
        and sometimes a driver call; here one allocation is divided into `_SCALARS` of them.

        Parameters
        ----------
        dtype : dtype
            Element type.

        Returns
        -------
        cupy.ndarray, shape ()
            Uninitialised.
        """
        import cupy

        dtype = np.dtype(dtype)
        block, used = self._scalars.get(dtype.char, (None, _SCALARS))
        if used == _SCALARS:
            block, used = allocate((_SCALARS,), dtype, "the losses"), 0
        self._scalars[dtype.char] = block, used + 1
        return cupy.ndarray((), dtype, memptr=block.data + used * dtype.itemsize)

    def counters(self, count: int) -> Any:
        """Return the counters of barriers between blocks: initially zero, and reusable after each launch.

        Parameters
        ----------
        count : int
            Minimum number of counters.

        Returns
        -------
        cupy.ndarray of uint32, shape (at least `count`,)
            The same memory at each call, unless more are requested or `discard_counters` was called.
        """
        if self._counters is None or self._counters.size < count:
            import cupy

            self._counters = cupy.zeros(count, dtype=np.uint32)
        return self._counters

    def memory(self) -> tuple[Any, ...]:
        """Return all memory of this workspace; a reference to it keeps the pool from reusing it."""
        return (*self._buffers.values(), self._counters)

    def discard_counters(self) -> None:
        """Discard the counters: a launch that failed may have left them at any value."""
        self._counters = None


def workspace() -> Workspace:
    """Return the scratch of this thread on the current stream of the current device.

    Returns
    -------
    Workspace
        Created at the first call; inside `using`, its argument.
    """
    import cupy

    override: Workspace | None = _local.__dict__.get("override")
    if override is not None:
        return override
    cuda = cupy.cuda
    key, stream = (cuda, cuda.runtime.getDevice()), cuda.get_current_stream()
    spaces: dict[Any, WeakKeyDictionary[Any, Workspace]] = _local.__dict__.setdefault("spaces", {})
    by_stream = spaces.get(key)
    if by_stream is None:
        by_stream = spaces[key] = WeakKeyDictionary()
    space = by_stream.get(stream)
    if space is None:
        space = by_stream[stream] = Workspace()
    return space


@contextmanager
def using(space: Workspace) -> Iterator[None]:
    """Use a given workspace for this thread's launches, whatever the stream, inside a ``with`` block.

    Parameters
    ----------
    space : Workspace
        Returned by `workspace` inside the block. All its uses must be in the order of one stream.
    """
    previous, _local.override = _local.__dict__.get("override"), space
    try:
        yield
    finally:
        _local.override = previous


def forget() -> None:
    """Free this thread's scratch."""
    _local.__dict__.clear()
