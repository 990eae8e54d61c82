"""``cupy.cuda.stream``: streams and events. Work is executed immediately, so its order is trivially preserved."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any, ClassVar

from . import runtime
from .errors import CAPTURE_UNSUPPORTED, ILLEGAL_STATE, CUDARuntimeError
from .graph import Graph
from .state import STATE, synchronised

PER_THREAD = 2
_pointers = itertools.count(0x5000, 0x100)
_local = threading.local()


class Event:
    """A point in a stream's work."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        runtime.getDevice()
        self.ptr = next(_pointers)
        self._time: float | None = None if disable_timing else 0.0

    @property
    def done(self) -> bool:
        """Whether the work before the event is done."""
        return True

    def record(self, stream: Stream | None = None) -> None:
        """Record the event after the work launched so far."""
        if self._time is not None:
            self._time = time.perf_counter()

    def synchronize(self) -> None:
        """Wait for the work before the event."""
        synchronised("cupy.cuda.Event.synchronize()")


def get_elapsed_time(start_event: Event, end_event: Event) -> float:
    """Return the milliseconds between two events."""
    if start_event._time is None or end_event._time is None:
        raise ValueError("an event was made with disable_timing=True")
    return (end_event._time - start_event._time) * 1e3


class Stream:
    """A queue of work; as a context manager it becomes the current one."""

    null: ClassVar[Stream]
    ptds: ClassVar[Stream]

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False, priority: int | None = None
    ) -> None:
        self.device_id = -1 if null or ptds else runtime.getDevice()
        # the per-thread default streams of all threads have the same pointer
        self.ptr = 0 if null else PER_THREAD if ptds else next(_pointers)
        self.is_non_blocking = non_blocking
        self._graph: Graph | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.ptr} (device {self.device_id})>"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Stream) and self.ptr == other.ptr

    def __hash__(self) -> int:
        return self.ptr

    def __enter__(self) -> Stream:
        _stack().append(self)
        return self

    def __exit__(self, *error: object) -> None:
        _stack().pop()

    def use(self) -> Stream:
        """Make this stream the current one."""
        _stack()[-1] = self
        return self

    @property
    def done(self) -> bool:
        """Whether all work is done."""
        return True

    def synchronize(self) -> None:
        """Wait for all work."""
        synchronised("cupy.cuda.Stream.synchronize()")

    def record(self, event: Event | None = None) -> Event:
        """Record an event, a new one if none is given."""
        event = Event() if event is None else event
        event.record(self)
        return event

    def wait_event(self, event: Event) -> None:
        """Let the work that follows wait for an event."""

    def is_capturing(self) -> bool:
        """Whether work is captured into a graph instead of done."""
        return self._graph is not None

    def begin_capture(self, mode: Any = None) -> None:
        """Capture launches from now on instead of making them; one stream at a time, in the stand-in."""
        if self.ptr == 0:
            raise CUDARuntimeError(CAPTURE_UNSUPPORTED)
        if STATE.capture is not None:
            raise CUDARuntimeError(ILLEGAL_STATE)
        self._graph = STATE.capture = Graph(self.ptr)

    def end_capture(self) -> Graph:
        """Return what was captured."""
        if self._graph is None:
            raise CUDARuntimeError(ILLEGAL_STATE)
        graph, self._graph, STATE.capture = self._graph, None, None
        return graph


Stream.null = Stream(null=True)
Stream.ptds = Stream(ptds=True)


def _stack() -> list[Stream]:
    """Return the current streams of the calling thread, the one that takes the next piece of work last."""
    stack: list[Stream] = _local.__dict__.setdefault("stack", [Stream.null])
    return stack


class ExternalStream(Stream):
    """A stream of another library, given by its address."""

    def __init__(self, ptr: int, device_id: int = -1) -> None:
        super().__init__(null=True)
        self.ptr = ptr
        self.device_id = device_id


def get_current_stream(device_id: int = -1) -> Stream:
    """Return the stream that takes the next piece of work."""
    runtime.getDevice()
    return _stack()[-1]
