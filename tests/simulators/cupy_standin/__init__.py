"""A stand-in for CuPy, for tests on machines without a GPU.

It runs on NumPy, behaves like CuPy 14.2, forbids what CuPy forbids, and counts operations that cost time on a
device. Differences from CuPy are listed at `array.ndarray` and in `rules`.

>>> from simulators import cupy_standin
>>> with cupy_standin.installed() as cupy:
...     x = cupy.asarray([1.0, 2.0])
...     with cupy_standin.forbid_synchronisation():
...         y = cupy.tanh(x) + 1
...     print(cupy_standin.counters().synchronisations)
0
"""

from .installation import install, installed, uninstall
from .kernels import KernelRunner, set_kernel_runner
from .state import (
    STATE,
    Counters,
    NotCapturableError,
    SynchronisationForbiddenError,
    UndefinedOnDeviceError,
    forbid_synchronisation,
)

__all__ = [
    "Counters",
    "KernelRunner",
    "NotCapturableError",
    "SynchronisationForbiddenError",
    "UndefinedOnDeviceError",
    "counters",
    "forbid_synchronisation",
    "install",
    "installed",
    "reset_counters",
    "set_kernel_runner",
    "uninstall",
]


def counters() -> Counters:
    """Return the counters of device operations since `install` or `reset_counters`."""
    return STATE.counters


def reset_counters() -> None:
    """Set all counters to zero."""
    STATE.counters.reset()
