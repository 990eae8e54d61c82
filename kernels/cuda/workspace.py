"""Scratch arrays that outlive a call, so that a step allocates nothing once its shape has been seen.

Work on one stream is done in order, so that the next call may write what the last one has read. Each thread and each
stream has its own scratch. Nothing that a caller keeps lives here.
"""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from capgpu.kernels.cuda.arrays import empty

__all__ = ["Workspace", "forget", "workspace"]

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

    def take(self, name: str, shape: tuple[int, ...], dtype: Any, room: int = 0) -> Any:
        """Return an uninitialised array, the same memory at each call by the same name.

        Parameters
        ----------
        name : str
            Whose scratch; two arrays in use at once need two names.
        shape : tuple of int
            Shape wanted.
        dtype : dtype
            Element type.
        room : int
            Elements to make room for, where later calls may ask for more.

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
            views.clear()
            self._buffers.pop(name, None)
            del buffer  # its memory can then be part of the larger one
            buffer = empty((max(count, room) * itemsize,), np.uint8, f"the scratch of {name}")
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
            slab, used = empty((_SCALARS,), dtype, "the losses"), 0
        self._scalars[dtype.char] = slab, used + 1
        return cupy.ndarray((), dtype, memptr=slab.data + used * dtype.itemsize)


def workspace() -> Workspace:
    """Return the scratch of this thread on the current stream of the current device.

    Returns
    -------
    Workspace
        Made at the first call.
    """
    import cupy

    cuda = cupy.cuda
    key = (cuda, cuda.runtime.getDevice(), cuda.get_current_stream().ptr)
    spaces: dict[Any, Workspace] = _local.__dict__.setdefault("spaces", {})
    found = spaces.get(key)
    if found is None:
        found = spaces[key] = Workspace()
    return found


def forget() -> None:
    """Give this thread's scratch back."""
    _local.__dict__.clear()
