"""Copies to the device from pinned memory of the host, which nobody waits for."""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np

from capgpu.kernels.cuda.compile import record

__all__ = ["ALIGNED", "PinnedMemory"]

#: What is sent in one copy begins at multiples of this, in bytes: more than any type needs.
ALIGNED = 256


class PinnedMemory:
    """Pinned memory of the host, from which copies to the device are made without waiting for them."""

    def __init__(self) -> None:
        # arrays of bytes, their addresses, and the events that follow their copies
        self._pieces: list[tuple[Any, ctypes.c_void_p, Any]] = []
        # not __del__: the collector of cycles may have destroyed the events before it is called
        weakref.finalize(self, _wait_for_copies, self._pieces).atexit = False

    def send(self, arrays: Sequence[tuple[Any, Any]]) -> None:
        """Copy arrays to the device, all in one copy.

        Parameters
        ----------
        arrays : sequence of (array, numpy.ndarray)
            Where each goes, and what is copied. On the device they must follow each other, each beginning at the next
            multiple of 256 bytes.
        """
        import cupy

        first = arrays[0][0].data
        size = arrays[-1][0].data.ptr - first.ptr + arrays[-1][1].nbytes
        host, address, event = self._free(size)
        for there, values in arrays:
            begin = there.data.ptr - first.ptr
            host[begin : begin + values.nbytes] = values.reshape(-1).view(np.uint8)
        record("copy")
        first.copy_from_host_async(address, size)
        event.record(cupy.cuda.get_current_stream())

    def _free(self, size: int) -> tuple[Any, ctypes.c_void_p, Any]:
        """Return a piece that no copy reads from any more."""
        import cupy

        for number, piece in enumerate(self._pieces):
            if piece[0].size >= size and piece[2].done:
                # those that have waited longest come first
                self._pieces.append(self._pieces.pop(number))
                return piece
        # twice the size: the next batch may be a little larger
        host = np.frombuffer(cupy.cuda.alloc_pinned_memory(2 * size), np.uint8, 2 * size)
        self._pieces.append((host, ctypes.c_void_p(host.ctypes.data), cupy.cuda.Event(disable_timing=True)))
        return self._pieces[-1]


def _wait_for_copies(pieces: Sequence[tuple[Any, ctypes.c_void_p, Any]]) -> None:
    """Wait until no copy reads from pieces: CuPy's pool would give their memory to others meanwhile."""
    with suppress(RuntimeError):  # nothing is copied on a device that is lost
        for _, _, event in pieces:
            if not event.done:
                event.synchronize()
