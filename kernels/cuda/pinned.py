"""Asynchronous copies to the device from pinned host memory."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from capgpu.kernels.cuda.device_calls import copy_from_host

__all__ = ["ALIGNED", "PinnedMemory"]

#: Alignment of the arrays of one copy, in bytes: more than any type needs.
ALIGNED = 256


class PinnedMemory:
    """Pinned host memory, from which copies to the device are asynchronous."""

    def __init__(self) -> None:
        # arrays of bytes, their addresses, and the events that follow their copies
        self._buffers: list[tuple[Any, ctypes.c_void_p, Any]] = []
        # not __del__: the garbage collector may have destroyed the events before it is called
        weakref.finalize(self, _wait_for_copies, self._buffers).atexit = False

    def send(self, arrays: Sequence[tuple[Any, Any]]) -> None:
        """Copy arrays to the device in one copy.

        Parameters
        ----------
        arrays : sequence of (array, numpy.ndarray)
            Destination and source of each. The destinations must be consecutive, each starting at the next multiple of
            256 bytes.
        """
        import cupy

        first = arrays[0][0].data
        size = arrays[-1][0].data.ptr - first.ptr + arrays[-1][1].nbytes
        host, address, event = self._free(size)
        for target, values in arrays:
            begin = target.data.ptr - first.ptr
            host[begin : begin + values.nbytes] = values.reshape(-1).view(np.uint8)
        copy_from_host(first, address, size)
        event.record(cupy.cuda.get_current_stream())

    def _free(self, size: int) -> tuple[Any, ctypes.c_void_p, Any]:
        """Return a buffer that no pending copy reads."""
        import cupy

        for number, buffer in enumerate(self._buffers):
            if buffer[0].size >= size and buffer[2].done:
                # least recently used first
                self._buffers.append(self._buffers.pop(number))
                return buffer
        # twice the size: the next batch may be a little larger
        host = np.frombuffer(cupy.cuda.alloc_pinned_memory(2 * size), np.uint8, 2 * size)
        self._buffers.append((host, ctypes.c_void_p(host.ctypes.data), cupy.cuda.Event(disable_timing=True)))
        return self._buffers[-1]


def _wait_for_copies(buffers: Sequence[tuple[Any, ctypes.c_void_p, Any]]) -> None:
    """Wait until no copy reads the buffers: CuPy's pool would reuse their memory too early."""
    with suppress(RuntimeError):  # a lost device copies nothing
        for _, _, event in buffers:
            if not event.done:
                event.synchronize()
