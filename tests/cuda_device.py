"""The CUDA device that the tests use: this machine's, or the stand-in for CuPy with emulated kernels.

``CAPGPU_BACKEND`` decides, as it does for the library:

- unset, ``auto``, or a list with ``cuda``: the device where one can be used, otherwise the stand-in;
- ``cuda``: the device; without a usable one the run ends at its start with the cause;
- anything without ``cuda``: the stand-in.
"""

from __future__ import annotations

import functools
import warnings
from dataclasses import dataclass
from importlib import import_module

import numpy as np

from capgpu.backend import (
    BackendUnavailableError,
    _parse,
    asarray,
    backend_info,
    synchronize,
    to_numpy,
    use_backend,
)

__all__ = ["Found", "Watch", "find"]


@dataclass(frozen=True)
class Found:
    """The result of looking for a device.

    Attributes
    ----------
    name : str or None
        The device and its compute capability; None where the tests use the stand-in.
    cause : str
        Why there is no device; empty where there is one.
    required : bool
        Whether ``CAPGPU_BACKEND`` names nothing but ``cuda``.
    """

    name: str | None
    cause: str = ""
    required: bool = False

    def __str__(self) -> str:
        if self.name is not None:
            return f"cuda: {self.name}"
        return f"cuda: no device, but the stand-in for CuPy with emulated kernels. {self.cause}"


@functools.cache
def find(setting: str | None) -> Found:
    """Look for a device and use it once.

    Parameters
    ----------
    setting : str or None
        ``CAPGPU_BACKEND``; None where it is unset.

    Raises
    ------
    ValueError
        If the setting names no backend.
    """
    names = _parse("auto" if setting is None else setting, f"CAPGPU_BACKEND={setting}")
    if "cuda" not in names:
        return Found(None, f"CAPGPU_BACKEND={setting} does not name cuda.")
    required = names == ("cuda",)
    with warnings.catch_warnings():
        # importing CuPy under -W error raises its dependencies' warnings: those say nothing about the device
        warnings.simplefilter("ignore")
        try:
            return Found(_use(), required=required)
        except BackendUnavailableError as error:
            return Found(None, str(error), required)
        except Exception as error:  # a driver that counts devices may still fail to create a context on one
            return Found(None, f"The device fails at its first use: {type(error).__name__}: {error}", required)


def _use() -> str:
    """Copy numbers to the device and back, and return its name."""
    with use_backend("cuda"):
        sent = np.arange(3.0)
        received = to_numpy(asarray(sent))
        synchronize()
        if (received != sent).any():
            raise RuntimeError(f"sent {sent.tolist()}, received {received.tolist()}")
        return str(backend_info()["device"])


class Watch:
    """Attributes asynchronous errors of the device to the test that caused them.

    A kernel that reads out of bounds is reported at the next call that waits, in another test perhaps; and after most
    such errors every later call of the process fails, too.

    Attributes
    ----------
    lost : str or None
        The test after which the device could not be used any more, and the error.
    """

    def __init__(self) -> None:
        self.lost: str | None = None

    def wait(self, test: str) -> None:
        """Wait for all work on the device; an error is that of the test that just ran."""
        cuda = import_module("cupy").cuda
        try:
            cuda.Device().synchronize()
        except Exception as error:
            try:
                cuda.Device().synchronize()
            except Exception:  # not reported once and over, but the end of this process's context
                self.lost = f"{test} ({type(error).__name__}: {error})"
            raise
