"""``cupy.cuda.graph``: launches recorded while a stream captures, to be replayed together.

Only launches of RawKernels and direct cuBLAS calls are captured. CuPy's own operations cannot be replayed here, and
many of them (cuBLAS calls, allocations, transfers) fail on a device, too; all of them raise.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import ensure_usable


class Graph:
    """The launches that a stream has captured."""

    def __init__(self, stream: int) -> None:
        self._stream = stream  # the address of the stream that captures
        self._launches: list[Callable[[], None]] = []

    def _add(self, launch: Callable[[], None]) -> None:
        self._launches.append(launch)

    def launch(self, stream: Any = None) -> None:
        """Repeat all launches with their original arguments."""
        ensure_usable()
        for launch in self._launches:
            launch()

    def upload(self, stream: Any = None) -> None:
        """Bring the graph to the device before its first launch."""
        ensure_usable()


Graph.__module__ = "cupy.cuda.graph"
