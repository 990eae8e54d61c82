"""Open the array library of a backend, or say why it cannot be used here.

With `capgpu.backend`, the only module outside of ``capgpu.kernels`` that imports CuPy.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import re
import sys
from types import ModuleType
from typing import Any

from capgpu import kernel_cache
from capgpu.errors import CapgpuError
from capgpu.optional_deps import install_command

__all__ = [
    "WITHOUT_GPU",
    "BackendUnavailableError",
    "compiler_problem",
    "host_namespace",
    "open_cpu",
    "open_cuda",
    "open_numpy",
]

#: The remedy in messages about a missing device.
WITHOUT_GPU = "without a GPU choose CAPGPU_BACKEND=cpu"
#: The oldest Numba whose LLVM knows all that the kernels use: it has no floating-point maximum on x86 in 0.61.
OLDEST_NUMBA = (0, 62)


class BackendUnavailableError(CapgpuError, RuntimeError):
    """The requested backend cannot run on this machine; the message contains the cause and a remedy."""


_numpy_namespace: ModuleType | None = None


def _compat(library: str, backend: str) -> ModuleType:
    """Import array-api-compat's namespace of an array library.

    Parameters
    ----------
    library : {"numpy", "cupy"}
        Which namespace.
    backend : str
        The backend that needs it, for the error.

    Raises
    ------
    BackendUnavailableError
        If array-api-compat is not installed or its namespace does not import.
    """
    try:
        return importlib.import_module(f"array_api_compat.{library}")
    except Exception as error:  # CuPy's namespace is copied at import, which can fail in any way
        missing = isinstance(error, ModuleNotFoundError) and importlib.util.find_spec("array_api_compat") is None
        raise BackendUnavailableError(
            f"backend {backend!r}: the package array-api-compat is not installed. Install it with: "
            "pip install array-api-compat"
            if missing
            else f"backend {backend!r}: array_api_compat.{library} does not import: {type(error).__name__}: {error}. "
            "Update it with: pip install --upgrade array-api-compat"
        ) from error


def host_namespace(backend: str = "numpy") -> ModuleType:
    """Return the namespace of NumPy arrays; `backend` is named in the error where it cannot be imported."""
    global _numpy_namespace
    if _numpy_namespace is None:
        _numpy_namespace = _compat("numpy", backend)
    return _numpy_namespace


def open_numpy() -> ModuleType:
    """Return the namespace of the ``numpy`` backend."""
    return host_namespace()


def open_cpu() -> ModuleType:
    """Return the namespace of the ``cpu`` backend, after checking that Numba can compile here."""
    problem = compiler_problem()
    if problem is not None:
        raise BackendUnavailableError(f"backend 'cpu': {problem}")
    return host_namespace("cpu")


def compiler_problem() -> str | None:
    """Return why Numba cannot compile kernels here, and what would mend it; None if it can."""
    if importlib.util.find_spec("numba") is None:
        return (
            "Numba is not installed. Install it with: pip install numba (or choose CAPGPU_BACKEND=numpy, which needs "
            "no compiler)."
        )
    version = _numba_version()
    if version is not None and version < OLDEST_NUMBA:
        oldest, got = (".".join(map(str, numbers)) for numbers in (OLDEST_NUMBA, version))
        return (
            f"expected Numba {oldest} or newer, got {got}, which ends the process while it compiles. Update it with: "
            f"pip install 'numba>={oldest}', or choose CAPGPU_BACKEND=numpy."
        )
    if not has_interpreter_lock():
        return (
            "expected Python with its global interpreter lock, got free-threaded Python, on which these kernels have "
            "not been tested. Set PYTHON_GIL=1, or choose CAPGPU_BACKEND=numpy."
        )
    if compilation_disabled():
        return (
            "expected Numba to compile, got NUMBA_DISABLE_JIT=1. Unset that variable, or choose CAPGPU_BACKEND=numpy."
        )
    return None


def _numba_version() -> tuple[int, ...] | None:
    """Return the first two numbers of Numba's version, without importing it; None if they are unknown."""
    try:
        numbers = re.match(r"(\d+)\.(\d+)", importlib.metadata.version("numba"))
    except importlib.metadata.PackageNotFoundError:
        return None
    return None if numbers is None else tuple(map(int, numbers.groups()))


def has_interpreter_lock() -> bool:
    """Return whether the interpreter has a global lock, which free-threaded Python has not."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())


def compilation_disabled() -> bool:
    """Return whether Numba's compilation is disabled, by ``NUMBA_DISABLE_JIT`` or its configuration."""
    settings = sys.modules.get("numba.core.config")
    disabled = getattr(settings, "DISABLE_JIT", None)  # None until it is imported
    if disabled is not None:
        return bool(disabled)
    try:
        return bool(int(os.environ.get("NUMBA_DISABLE_JIT") or 0))
    except ValueError:  # Numba ignores it, too
        return False


def open_cuda() -> ModuleType:
    """Return the namespace of the ``cuda`` backend, after checking that CuPy imports and finds a device."""
    try:
        # an empty folder of that name can also be imported, as a namespace package without this attribute
        runtime = _import_cupy().cuda.runtime
    except ModuleNotFoundError as error:
        if error.name != "cupy":
            raise BackendUnavailableError(
                f"backend 'cuda': CuPy is installed but does not import: {error}. Reinstall it with: "
                f"{_install_cupy('--force-reinstall ')}."
            ) from error
        raise BackendUnavailableError(
            f"backend 'cuda': CuPy is not installed. Install it with: {_install_cupy()}; {WITHOUT_GPU}."
        ) from error
    except Exception as error:  # a broken installation can fail in any way; the exception is the cause
        raise BackendUnavailableError(
            f"backend 'cuda': CuPy is installed but does not import: {type(error).__name__}: {error}. "
            f"Check the CUDA libraries it names, or reinstall with: {_install_cupy('--force-reinstall ')}."
        ) from error
    try:
        count = runtime.getDeviceCount()
    except runtime.CUDARuntimeError as error:
        raise BackendUnavailableError(_device_problem(runtime, error)) from error
    if count < 1:
        raise BackendUnavailableError(
            "backend 'cuda': no CUDA device found (the driver lists 0). Check nvidia-smi and "
            f"CUDA_VISIBLE_DEVICES; {WITHOUT_GPU}."
        )
    from capgpu.distributed.launch import launch  # its package imports this one

    place = launch()
    if place is not None:  # ranks on one machine take its devices in turn
        runtime.setDevice(place.local_rank % count)
    return _compat("cupy", "cuda")


def _install_cupy(option: str = "") -> str:
    """Return the commands that install CuPy, with an option of pip."""
    commands = (install_command(extra).replace("install ", f"install {option}", 1) for extra in ("cuda13", "cuda12"))
    return "{} (CUDA 13) or {} (CUDA 12)".format(*commands)


def _import_cupy() -> Any:
    if "cupy" in sys.modules or importlib.util.find_spec("cupy") is None:
        return importlib.import_module("cupy")
    with kernel_cache.provided():
        return importlib.import_module("cupy")


def _device_problem(runtime: Any, error: Exception) -> str:
    """Distinguish a missing driver, an old driver and a missing device; the runtime's messages are ambiguous."""
    message = str(error)
    if "InsufficientDriver" in message:
        required = _cuda_version(runtime.runtimeGetVersion())
        try:
            version = runtime.driverGetVersion()
        except runtime.CUDARuntimeError:
            version = 0
        if version == 0:
            return (
                f"backend 'cuda': no CUDA device: no NVIDIA driver is installed here; {WITHOUT_GPU}. CuPy's message: "
                f"{message}"
            )
        return (
            f"backend 'cuda': the NVIDIA driver is too old: it serves CUDA {_cuda_version(version)}, the "
            f"installed CuPy needs CUDA {required}. Update the driver, or install the CuPy of an older CUDA: "
            f"{install_command('cuda12')}. CuPy's message: {message}"
        )
    if "NoDevice" in message:
        return (
            f"backend 'cuda': no CUDA device found. Check nvidia-smi and CUDA_VISIBLE_DEVICES; {WITHOUT_GPU}. CuPy's "
            f"message: {message}"
        )
    return f"backend 'cuda': the CUDA device cannot be used. CuPy's message: {message}"


def _cuda_version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"
