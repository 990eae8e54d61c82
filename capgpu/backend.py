"""Backends: selection, creation and transfer of arrays, synchronization.

A backend is an array library with a set of kernels. ``CAPGPU_BACKEND`` (read at first use), `set_backend` and
`use_backend` select the backend of *new* arrays; every function computes with the library of its arguments, through
`array_namespace`. How an array library is opened is in `capgpu.array_libraries`, and which one arrays belong to in
`capgpu.array_origin`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from capgpu.array_libraries import (
    BackendUnavailableError,
    host_namespace,
    open_cpu,
    open_cuda,
    open_numpy,
)
from capgpu.array_origin import common_namespace, is_device_array, is_host_array
from capgpu.dtypes import named_dtype
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.visible_text import hint, short

__all__ = [
    "Array",
    "Backend",
    "BackendUnavailableError",
    "array_namespace",
    "asarray",
    "backend_info",
    "current_backend",
    "free_device_memory",
    "is_device_array",
    "is_host_array",
    "set_backend",
    "synchronize",
    "to_numpy",
    "use_backend",
]

logger = logging.getLogger("capgpu")

#: An array of any supported namespace. The standard has no nominal type to name.
Array: TypeAlias = Any

AUTO = ("cuda", "cpu")
NAMES = ("numpy", "cpu", "cuda")
#: Other names of backends, by which people know their libraries.
ALIASES = {"gpu": "cuda", "cupy": "cuda", "numba": "cpu"}


@dataclass(frozen=True)
class Backend:
    """A usable backend.

    Attributes
    ----------
    name : str
        ``"numpy"``, ``"cpu"`` or ``"cuda"``.
    xp : module
        The array namespace (array-api-compat's view of NumPy or CuPy) that creates its arrays.
    kernels : str
        The kernels its arrays go to: ``"reference"``, ``"cpu"`` or ``"cuda"``.
    reason : str
        Why this backend was selected.
    host_choice : str
        The backend by which kernels for host arrays are chosen: `name`, or ``"numpy"`` where ``"cuda"`` was selected
        from names among which ``"numpy"`` is the only one of a host backend.
    """

    name: str
    xp: ModuleType
    kernels: str
    reason: str
    host_choice: str


_lock = threading.RLock()
_current: Backend | None = None


_OPENERS = {"numpy": open_numpy, "cpu": open_cpu, "cuda": open_cuda}
_KERNELS = {"numpy": "reference", "cpu": "cpu", "cuda": "cuda"}


# --- choosing --------------------------------------------------------------------------------------


def _parse(choice: str | Sequence[str], source: str) -> tuple[str, ...]:
    parts = choice.split(",") if isinstance(choice, str) else choice
    if not isinstance(parts, Sequence) or not all(isinstance(part, str) for part in parts):
        raise InvalidTypeError(f"{source}: expected a name, or names in order of preference, got {short(choice)}.")
    names = [ALIASES.get(name, name) for part in parts if (name := part.strip().lower())]
    if not names:
        raise InvalidValueError(
            f"{source}: expected one of {', '.join(NAMES)}, a list such as 'cuda,cpu', or 'auto', got no name."
        )
    out: list[str] = []
    for name in names:
        if name != "auto" and name not in NAMES:
            raise InvalidValueError(
                f"{source}: expected one of {', '.join(NAMES)}, a list of them in order of preference such as "
                f"'cuda,cpu', or 'auto', got {short(name)}.{hint(name, (*NAMES, *ALIASES, 'auto'))}"
            )
        out.extend(AUTO if name == "auto" else (name,))
    return tuple(dict.fromkeys(out))


def _resolve(choice: str | Sequence[str], source: str) -> Backend:
    names = _parse(choice, source)
    if len(names) == 1:
        return Backend(names[0], _OPENERS[names[0]](), _KERNELS[names[0]], f"asked for by {source}", names[0])
    causes: list[str] = []
    for name in names:
        try:
            namespace = _OPENERS[name]()
        except BackendUnavailableError as error:
            causes.append(str(error))
            continue
        reason = f"first usable of {', '.join(names)} ({source})"
        for cause in causes:
            reason += f"; {cause}"
        logger.info("capgpu backend: %s, %s", name, reason)
        return Backend(name, namespace, _KERNELS[name], reason, _host_choice(name, names))
    raise BackendUnavailableError(f"{source}: none of {', '.join(names)} can run here.\n" + "\n".join(causes))


def _host_choice(name: str, names: Sequence[str]) -> str:
    """Return the backend by which kernels for host arrays are chosen, where `name` was selected from `names`."""
    return "numpy" if name == "cuda" and "numpy" in names and "cpu" not in names else name


def current_backend() -> Backend:
    """Return the backend of new arrays, resolving ``CAPGPU_BACKEND`` at the first call.

    Returns
    -------
    Backend
        The current backend of this process.

    Raises
    ------
    BackendUnavailableError
        If the requested backend cannot run on this machine.
    ValueError
        If ``CAPGPU_BACKEND`` names no backend.
    """
    global _current
    backend = _current
    if backend is None:
        with _lock:
            if _current is None:
                setting = os.environ.get("CAPGPU_BACKEND")
                if setting is None:
                    _current = _resolve("auto", "the default, auto")
                else:
                    _current = _resolve(setting, f"CAPGPU_BACKEND={setting}")
            backend = _current
    return backend


def host_choice() -> str:
    """Return the name of the backend by which kernels for host arrays are chosen, without opening a device.

    Returns
    -------
    str
        `Backend.host_choice` of the backend in force, or, where the device would have to be opened first, what it would
        be with the device.

    Raises
    ------
    BackendUnavailableError
        If only a host backend is asked for, and it cannot run here.
    ValueError
        If ``CAPGPU_BACKEND`` names no backend.
    """
    if _current is None:
        names = _parse(os.environ.get("CAPGPU_BACKEND", "auto"), "CAPGPU_BACKEND")
        if names[0] == "cuda":
            return _host_choice("cuda", names)
    return current_backend().host_choice


def set_backend(name: str | Sequence[str]) -> Backend:
    """Set the backend of the process, overriding ``CAPGPU_BACKEND``.

    Parameters
    ----------
    name : str or sequence of str
        ``"numpy"``, ``"cpu"`` (or ``"numba"``), ``"cuda"`` (or ``"gpu"``, ``"cupy"``); names in order of preference
        (``"cuda,cpu"``); or ``"auto"``.

    Returns
    -------
    Backend
        The selected backend.

    Raises
    ------
    BackendUnavailableError
        If none of the names can run on this machine; the current backend is unchanged.
    ValueError
        If a name is unknown.
    """
    global _current
    backend = _resolve(name, f"set_backend({name!r})")
    with _lock:
        _current = backend
    return backend


@contextmanager
def use_backend(name: str | Sequence[str]) -> Iterator[Backend]:
    """Set the backend within a ``with`` block (process-wide, like `set_backend`).

    Parameters
    ----------
    name : str or sequence of str
        As for `set_backend`.

    Yields
    ------
    Backend
        The selected backend.
    """
    global _current
    previous = _current
    backend = set_backend(name)
    try:
        yield backend
    finally:
        with _lock:
            _current = previous


# --- following the arrays --------------------------------------------------------------------------


def array_namespace(*arrays: Array, **named: Array) -> Any:
    """Return the common array namespace of arrays, and reject arrays of different libraries.

    Parameters
    ----------
    *arrays, **named : array
        Arrays of one library. Errors contain the names of those passed by keyword.

    Returns
    -------
    module
        array-api-compat's namespace of that library.

    Raises
    ------
    TypeError
        If the arrays belong to different libraries (host and device), or an argument is not an array.
    """
    for array in arrays:
        if type(array) is not np.ndarray:
            break
    else:
        for array in named.values():
            if type(array) is not np.ndarray:
                break
        else:
            if arrays or named:
                return host_namespace("numpy")
    return common_namespace(arrays, named)


# --- moving ----------------------------------------------------------------------------------------


def asarray(obj: Any, dtype: Any = None) -> Array:
    """Convert data to an array of the current backend.

    Parameters
    ----------
    obj : array or nested sequence of numbers
        Data on the host or on the device. An array of the backend is returned unchanged.
    dtype : dtype, optional
        The dtype, as NumPy names it; by default that of the data.

    Returns
    -------
    array
        An array of the current backend.
    """
    xp = current_backend().xp
    if xp is host_namespace() and not isinstance(obj, (np.ndarray, np.generic, list, tuple, int, float, bool)):
        obj = to_numpy(obj)
    if dtype is not None:
        dtype = named_dtype(dtype)
        # bfloat16 has no name in a namespace: NumPy and CuPy take the dtype itself
        dtype = getattr(xp, dtype.name, dtype)
    return xp.asarray(obj, dtype=dtype)


def to_numpy(array: Any) -> np.ndarray[Any, Any]:
    """Copy an array to the host as a NumPy array; synchronizes the device. A NumPy array is returned unchanged.

    Parameters
    ----------
    array : array
        A NumPy, CuPy or other array-API array.

    Returns
    -------
    numpy.ndarray
        The same values, shape and dtype.
    """
    if isinstance(array, np.ndarray):
        return array
    import array_api_compat

    if array_api_compat.is_cupy_array(array):
        host: np.ndarray[Any, Any] = array.get()
        return host
    return np.asarray(array)


def synchronize() -> None:
    """Wait until the device of the current backend has finished its work; returns at once on the host."""
    if current_backend().name == "cuda":
        importlib.import_module("cupy").cuda.get_current_stream().synchronize()


def free_device_memory() -> int | None:
    """Return the device memory available for new arrays of the current backend.

    Returns
    -------
    int or None
        Bytes: the device's free memory and unused blocks of CuPy's pool, within the pool's limit. None on the host.
    """
    if current_backend().name != "cuda":
        return None
    cupy = importlib.import_module("cupy")
    pool = cupy.get_default_memory_pool()
    free = int(cupy.cuda.runtime.memGetInfo()[0] + pool.free_bytes())
    limit = pool.get_limit()
    return min(free, max(limit - pool.used_bytes(), 0)) if limit else free


# --- information ------------------------------------------------------------------------------------


def _version(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def backend_info() -> dict[str, Any]:
    """Return installed packages, the selected backend with its reason, the device, and the kernels in use.

    Returns
    -------
    dict
        ``backend`` (name or None), ``reason``, ``error`` (of the settings or the machine, or None), ``kernels``,
        ``device``, ``setting`` (environment variables), ``installed`` (versions or None) and ``available`` (backend
        name -> ``"yes"`` or the cause).
    """
    available: dict[str, str] = {}
    for name, opener in _OPENERS.items():
        try:
            opener()
            available[name] = "yes"
        except BackendUnavailableError as error:
            available[name] = str(error)
    info: dict[str, Any] = {
        "backend": None,
        "reason": None,
        "error": None,
        "kernels": None,
        "device": None,
        "setting": {key: os.environ.get(key) for key in ("CAPGPU_BACKEND", "CAPGPU_KERNELS")},
        "installed": {
            "capgpu": importlib.import_module("capgpu").__version__,
            "numpy": np.__version__,
            "numba": _version("numba"),
            "cupy": _version("cupy-cuda13x", "cupy-cuda12x", "cupy"),
            "array-api-compat": _version("array-api-compat"),
        },
        "available": available,
    }
    try:
        backend = current_backend()
        info["backend"], info["reason"], info["device"] = backend.name, backend.reason, _device_name(backend)
        info["kernels"] = "reference" if kernels_setting() == "reference" else backend.kernels
    except (BackendUnavailableError, ValueError) as error:
        info["error"] = str(error)
    return info


def _device_name(backend: Backend) -> str:
    if backend.name == "cuda":
        cupy = importlib.import_module("cupy")
        properties = cupy.cuda.runtime.getDeviceProperties(cupy.cuda.runtime.getDevice())
        name = properties["name"]
        name = name.decode() if isinstance(name, bytes) else str(name)
        return f"{name}, compute capability {properties['major']}.{properties['minor']}"
    from capgpu.threads import (
        thread_count,
        usable_processors,
    )  # they need `capgpu.distributed`, which needs this module

    host = f"host, {usable_processors()} processors"
    return f"{host}, {thread_count()} threads" if backend.name == "cpu" else host


def kernels_setting() -> str:
    """Return ``CAPGPU_KERNELS``: ``"fused"`` (the default) or ``"reference"``.

    Raises
    ------
    ValueError
        If the variable is set to something else.
    """
    setting = os.environ.get("CAPGPU_KERNELS", "fused") or "fused"
    if setting not in ("fused", "reference"):
        raise InvalidValueError(
            f"CAPGPU_KERNELS: expected 'fused' or 'reference', got {short(setting)}. Unset it for fused kernels."
        )
    return setting
