"""Scratch arrays that outlive a call, so that a step allocates nothing once its shape has been seen.

Work on one stream is done in order, so that the next call may write what the last one has read. Each thread and each
stream has its own scratch. Nothing that a caller keeps lives here.

A workspace is found by the thread and the Stream object, not by the pointer in it: per-thread default streams share the
pointer 2 in all threads, and CUDA gives the pointer of a destroyed stream to a new one. It lasts as long as the Stream
object and the thread. Its memory then goes back to CuPy's pool, which gives memory that was allocated for a stream to
later work of that stream only: what is still in the queue keeps what it uses. A graph replays with the memory of the
stream on which it was captured: keep that Stream object, in the thread that captured, as long as the graph.
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
_SCALARS = 1024
# Shapes of one buffer that are remembered: the batches of an epoch have different numbers of words.
_VIEWS = 64


class Workspace:
    """The scratch of one thread on one stream of one device."""

    def __init__(self) -> None:
        self._buffers: dict[str, Any] = {}
        self._views: dict[str, dict[tuple[Any, ...], Any]] = {}
        self._scalars: dict[str, tuple[Any, int]] = {}
        self._counters: Any = None
        #: For a number of rows, how many to make room for; see `capgpu.kernels.cuda.held_results`.
        self.capacities: Mapping[int, int] = {}
        #: Sums of columns that wait for each other: (matrix, where its sums go); None where none wait.
        self.pending_sums: list[tuple[Any, Any]] | None = None
        #: For copies from the host, on this workspace's stream.
        self.pinned = PinnedMemory()

    def capacity(self, rows: int) -> int:
        """Return how many rows to make room for, where an array has `rows` of them and later ones may have more."""
        return self.capacities.get(rows, rows)

    def take(self, name: str, shape: tuple[int, ...], dtype: Any, room: int | None = None) -> Any:
        """Return an uninitialised array, the same memory at each call by the same name.

        Parameters
        ----------
        name : str
            Whose scratch; two arrays in use at once need two names.
        shape : tuple of int
            Shape wanted.
        dtype : dtype
            Element type.
        room : int, optional
            Elements to make room for, where later calls may ask for more; by default those of `capacity` rows.

        Returns
        -------
        cupy.ndarray
            Without gaps, aligned as a fresh array is.

        Raises
        ------
        DeviceMemoryError
            Where there is no room.
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
            if room is None:
                room = count // shape[0] * self.capacity(shape[0]) if count and shape else count
            views.clear()
            self._buffers.pop(name, None)
            del buffer  # its memory can then be part of the larger one
            buffer = allocate((max(count, room) * itemsize,), np.uint8, f"the scratch of {name}")
            self._buffers[name] = buffer
        if len(views) >= _VIEWS:
            views.clear()
        view = views[shape, dtype] = cupy.ndarray(shape, dtype, memptr=buffer.data)
        return view

    def scalar(self, dtype: Any) -> Any:
        """Return an array without dimensions that is the caller's to keep: its memory is not handed out again.

        A training run keeps the loss of every step until somebody looks. One by one each would take 512 bytes, and,
        now and then, a call of the driver; here one allocation serves `_SCALARS` of them.

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
        slab, used = self._scalars.get(dtype.char, (None, _SCALARS))
        if used == _SCALARS:
            slab, used = allocate((_SCALARS,), dtype, "the losses"), 0
        self._scalars[dtype.char] = slab, used + 1
        return cupy.ndarray((), dtype, memptr=slab.data + used * dtype.itemsize)

    def counters(self, count: int) -> Any:
        """Return the counters of the barriers between blocks: zero at first, and left ready for the next launch.

        Parameters
        ----------
        count : int
            Counters wanted.

        Returns
        -------
        cupy.ndarray of uint32, shape (at least `count`,)
            The same memory at each call, unless more are wanted or `discard_counters` was called.
        """
        if self._counters is None or self._counters.size < count:
            import cupy

            self._counters = cupy.zeros(count, dtype=np.uint32)
        return self._counters

    def memory(self) -> tuple[Any, ...]:
        """Return all memory that was taken so far: who keeps it, keeps it from being given to others."""
        return (*self._buffers.values(), self._counters)

    def discard_counters(self) -> None:
        """Discard the counters: a launch that failed may have left them at any value."""
        self._counters = None


def workspace() -> Workspace:
    """Return the scratch of this thread on the current stream of the current device.

    Returns
    -------
    Workspace
        Made at the first call; inside `using`, the one given there.
    """
    import cupy

    given: Workspace | None = _local.__dict__.get("given")
    if given is not None:
        return given
    cuda = cupy.cuda
    key, stream = (cuda, cuda.runtime.getDevice()), cuda.get_current_stream()
    spaces: dict[Any, WeakKeyDictionary[Any, Workspace]] = _local.__dict__.setdefault("spaces", {})
    by_stream = spaces.get(key)
    if by_stream is None:
        by_stream = spaces[key] = WeakKeyDictionary()
    found = by_stream.get(stream)
    if found is None:
        found = by_stream[stream] = Workspace()
    return found


@contextmanager
def using(space: Workspace) -> Iterator[None]:
    """Use a given workspace for this thread's launches, whatever the stream, inside a ``with`` block.

    Parameters
    ----------
    space : Workspace
        What `workspace` returns meanwhile. All its uses must be in the order of one stream.
    """
    before, _local.given = _local.__dict__.get("given"), space
    try:
        yield
    finally:
        _local.given = before


def forget() -> None:
    """Give this thread's scratch back."""
    _local.__dict__.clear()
