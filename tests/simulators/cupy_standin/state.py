"""What the stand-in device knows and counts: one object, shared by every module of the stand-in."""

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
    """Something other than a launch of a kernel of one's own while a stream captures a graph."""


class UndefinedOnDeviceError(AssertionError):
    """A real device would go on in silence with a result that is wrong or differs from run to run.

    Not an IndexError or ValueError on purpose: code that catches those would pass here and be wrong on a GPU.
    """


@dataclass
class Counters:
    """What happened on the stand-in device since `install` or `reset_counters`.

    Attributes
    ----------
    synchronisations : int
        Times the host waited for the device, hidden waits inside CuPy's functions included.
    host_to_device_copies, host_to_device_bytes, device_to_host_copies, device_to_host_bytes : int
        Transfers. A zero-dimensional value goes to the device as a kernel argument, so it is none.
    allocations, allocated_bytes : int
        New arrays (views are none), each rounded up to the pool's unit of 512 bytes.
    nondeterministic : list of str
        Operations that a device performs with floating-point atomics, in an order that changes run to run.
    """

    synchronisations: int = 0
    host_to_device_copies: int = 0
    host_to_device_bytes: int = 0
    device_to_host_copies: int = 0
    device_to_host_bytes: int = 0
    allocations: int = 0
    allocated_bytes: int = 0
    nondeterministic: list[str] = field(default_factory=list)

    def reset(self) -> None:
        """Set every count back to zero."""
        fresh = Counters()
        for entry in fields(self):
            setattr(self, entry.name, getattr(fresh, entry.name))


MEMORY_SIZE = 40 * 2**30


class State:
    """The configuration of the simulated machine and what is going on in it."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Back to a healthy machine with one device and nothing counted."""
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
    """Raise where a stream captures a graph."""
    if STATE.capture is not None:
        raise NotCapturableError(
            f"{operation} while a stream captures a graph: only launches of RawKernels are captured; cuBLAS, new "
            "memory, transfers and waiting fail on a device, too"
        )


def synchronised(operation: str) -> None:
    """Count one wait of the host for the device, or refuse it where waiting is forbidden."""
    refuse_in_capture(operation)
    STATE.counters.synchronisations += 1
    if STATE.forbidding:
        raise SynchronisationForbiddenError(
            f"{operation} makes the host wait for the device, inside forbid_synchronisation()"
        )


@contextlib.contextmanager
def forbid_synchronisation() -> Iterator[None]:
    """Raise `SynchronisationForbiddenError` wherever the host would wait for the device."""
    STATE.forbidding += 1
    try:
        yield
    finally:
        STATE.forbidding -= 1
