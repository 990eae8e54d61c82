"""Backends: selection, creation and transfer of arrays, synchronization.

A backend is an array library with a set of kernels. ``CAPGPU_BACKEND`` (read at first use), `set_backend` and
`use_backend` select the backend of *new* arrays; every function computes with the library of its arguments, through
`array_namespace`. How an array library is opened is in `capgpu.array_libraries`.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
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
from capgpu.dtypes import named_dtype
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.visible_text import short

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
        raise InvalidTypeError(f"{source} must be a name or names in order of preference, got {short(choice)}.")
    names = [ALIASES.get(name, name) for part in parts if (name := part.strip().lower())]
    if not names:
        raise InvalidValueError(
            f"{source} is empty. Choose one of {', '.join(NAMES)}, a list like 'cuda,cpu', or 'auto'."
        )
    out: list[str] = []
    for name in names:
        if name != "auto" and name not in NAMES:
            near = get_close_matches(name, (*NAMES, *ALIASES, "auto"), n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise InvalidValueError(
                f"{source}: unknown backend {short(name)}.{hint} Known: {', '.join(NAMES)}, a list of them in "
                "order of preference such as 'cuda,cpu', or 'auto'."
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


def is_host_array(array: object) -> bool:
    """Return whether an array is a NumPy array in host memory."""
    return isinstance(array, np.ndarray)


def is_device_array(array: object) -> bool:
    """Return whether an array is a CuPy array, or of a subclass. Does not import CuPy: without it there is none."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(array, getattr(cupy, "ndarray", ()))


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
    return _mixed_namespace(arrays, named)


def _mixed_namespace(arrays: tuple[Array, ...], named: dict[str, Array]) -> Any:
    import array_api_compat

    if not arrays and not named:
        raise InvalidTypeError("array_namespace needs at least one array.")
    first_name, first_space, first_type = "", None, None
    for index, array in enumerate((*arrays, *named.values())):
        if type(array) is first_type:
            continue  # of one class, of one library
        name = f"argument {index + 1}" if index < len(arrays) else list(named)[index - len(arrays)]
        if isinstance(array, np.ma.MaskedArray):
            raise InvalidTypeError(
                f"{name}: expected an array without a mask, which would be ignored, got a numpy.ma.MaskedArray. Fill "
                f"it: {name if name.isidentifier() else '...'}.filled(...)."
            )
        if not array_api_compat.is_array_api_obj(array) or isinstance(array, np.generic):
            if array is None:
                raise InvalidTypeError(f"{name}: expected an array, got None.")
            raise InvalidTypeError(
                f"{name} is a {type(array).__module__}.{type(array).__qualname__}, not an array. "
                f"Make it one with capgpu.asarray({name if name.isidentifier() else '...'})."
            )
        if len(arrays) + len(named) > 1 and array_api_compat.is_torch_array(array):
            _reject_torch_mixture(name, (*arrays, *named.values()))
        space = array_api_compat.array_namespace(array)
        if first_space is None:
            first_name, first_space, first_array, first_type = name, space, array, type(array)
        elif space is not first_space:
            raise InvalidTypeError(_mixture(first_name, first_array, name, array))
    return first_space


def _reject_torch_mixture(name: str, arrays: Sequence[Array]) -> None:
    """Reject a tensor of torch among other arrays, with the conversion."""
    import array_api_compat

    other = next((array for array in arrays if not array_api_compat.is_torch_array(array)), None)
    if other is None or not array_api_compat.is_array_api_obj(other):
        return
    raise InvalidTypeError(torch_advice(name, on_device=is_device_array(other)))


def torch_advice(name: str, *, on_device: bool = False) -> str:
    """Return the message for a tensor of torch where an array is expected.

    Parameters
    ----------
    name : str
        The argument's name.
    on_device : bool
        Whether a CuPy array is expected.

    Returns
    -------
    str
        What was expected, and the conversion.
    """
    value = name if name.isidentifier() else "tensor"
    if on_device:
        return f"{name}: expected a CuPy array, got a torch.Tensor. Pass cupy.from_dlpack({value}.detach().cuda())."
    return f"{name}: expected a NumPy array, got a torch.Tensor. Pass {value}.detach().cpu().numpy()."


def _mixture(first: str, first_array: Array, second: str, second_array: Array) -> str:
    host, device = (first, second) if is_host_array(first_array) else (second, first)

    def call(function: str, name: str) -> str:
        return f"capgpu.{function}({name if name.isidentifier() else '...'})"

    return (
        f"{first} is a {_kind(first_array)} and {second} is a {_kind(second_array)}: arrays of one call must "
        f"live in one place. Move one of them: {call('asarray', host)} takes {host} to the current backend, "
        f"{call('to_numpy', device)} takes {device} to the host."
    )


def _kind(array: Array) -> str:
    kind = type(array)
    root = kind.__module__.split(".")[0]
    return {"numpy": "NumPy array (host)", "cupy": "CuPy array (device)"}.get(root, f"{root}.{kind.__name__}")


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
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"host, {count} processors"


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
            f"CAPGPU_KERNELS={setting!r} is unknown: set it to 'fused' or 'reference', or unset it."
        )
    return setting
