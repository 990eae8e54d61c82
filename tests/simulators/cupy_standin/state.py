"""The state and the counters of the stand-in device: one object, shared by every module of the stand-in."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from .architecture import ARCHITECTURES

if TYPE_CHECKING:
    from .graph import Graph
    from .kernels import KernelRunner


class SynchronisationForbiddenError(AssertionError):
    """The host waited for the device inside ``forbid_synchronisation()``."""


class NotCapturableError(RuntimeError):
    """An operation other than a RawKernel launch while a stream captures a graph."""


class UndefinedOnDeviceError(AssertionError):
    """A device would silently continue with a result that is wrong or differs between runs.

    Deliberately not an IndexError or ValueError: code that catches those would pass here and be wrong on a GPU.
    """


@dataclass
class Counters:
    """What happened on the stand-in device since `install` or `reset_counters`.

    Attributes
    ----------
    synchronisations : int
        Number of times that the host waited for the device, including implicit waits in CuPy's functions.
    host_to_device_copies, host_to_device_bytes, device_to_host_copies, device_to_host_bytes : int
        Transfers, except for zero-dimensional values, which are passed as kernel arguments.
    allocations, allocated_bytes : int
        New arrays (not views), each rounded up to the pool's unit of 512 bytes.
    nondeterministic : list of str
        Operations that a device performs with floating-point atomics, in an order that varies between runs.
    collectives : list of (str, int, int)
        NCCL's collectives: name, bytes, and the pointer of the stream.
    """

    synchronisations: int = 0
    host_to_device_copies: int = 0
    host_to_device_bytes: int = 0
    device_to_host_copies: int = 0
    device_to_host_bytes: int = 0
    allocations: int = 0
    allocated_bytes: int = 0
    nondeterministic: list[str] = field(default_factory=list)
    collectives: list[tuple[str, int, int]] = field(default_factory=list)

    def reset(self) -> None:
        """Set every count back to zero."""
        fresh = Counters()
        for entry in fields(self):
            setattr(self, entry.name, getattr(fresh, entry.name))


MEMORY_SIZE = 40 * 2**30


class State:
    """The configuration and the current state of the simulated machine."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Restore a working machine with one device and all counters at zero."""
        self.counters = Counters()
        self.device_count = 1
        self.current_device = 0
        self.driver_version = 13020
        self.runtime_version = 13020
        self.failure: int | None = None  # CUDA status that every use of the device raises
        self.cooperative_refusal: int | None = None  # CUDA status that every cooperative launch raises
        self.memory_size = MEMORY_SIZE
        self.forbidding = 0
        self.kernel_runner: KernelRunner | None = None
        self.architecture = ARCHITECTURES["sm_80"]
        self.capture: Graph | None = None
        self.allocator: Callable[[int], Any] | None = None


STATE = State()


def refuse_in_capture(operation: str) -> None:
    """Raise if a stream captures a graph."""
    if STATE.capture is not None:
        raise NotCapturableError(
            f"{operation} while a stream captures a graph: only launches of RawKernels are captured; cuBLAS, new "
            "memory, transfers and waiting fail on a device, too"
        )


def synchronised(operation: str) -> None:
    """Count one synchronization, or refuse it inside `forbid_synchronisation`."""
    refuse_in_capture(operation)
    STATE.counters.synchronisations += 1
    if STATE.forbidding:
        raise SynchronisationForbiddenError(
            f"{operation} makes the host wait for the device, inside forbid_synchronisation()"
        )


@contextlib.contextmanager
def forbid_synchronisation() -> Iterator[None]:
    """Raise `SynchronisationForbiddenError` whenever the host would wait for the device, inside a ``with`` block."""
    STATE.forbidding += 1
    try:
        yield
    finally:
        STATE.forbidding -= 1
