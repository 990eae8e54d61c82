"""``cupy.cuda.graph``: launches recorded while a stream captures, to be made again in one go.

Only kernels of one's own are captured, and products that cuBLAS is asked for directly: what CuPy itself would launch
cannot be made again here, and much of it (cuBLAS, new memory, transfers) a device refuses, too. All of it raises.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .errors import ensure_usable


class Graph:
    """What a stream has captured."""

    def __init__(self, stream: int) -> None:
        self._stream = stream  # the address of the stream that captures
        self._launches: list[Callable[[], None]] = []

    def _add(self, launch: Callable[[], None]) -> None:
        self._launches.append(launch)

    def launch(self, stream: Any = None) -> None:
        """Make all launches again, with the arguments they had."""
        ensure_usable()
        for launch in self._launches:
            launch()

    def upload(self, stream: Any = None) -> None:
        """Bring the graph to the device before its first launch."""
        ensure_usable()


Graph.__module__ = "cupy.cuda.graph"
