"""Installing the stand-in as the module ``cupy``, and restoring the previous modules."""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator, Sequence

from . import errors, namespace
from .architecture import ARCHITECTURES
from .memory import POOL
from .state import STATE
from .stream import Stream

DRIVERS = {
    "sufficient": 13020,
    "insufficient": 11040,
    "missing": 0,  # CuPy imports without a driver too, and CUDA then calls it insufficient
}
_ROOTS = ("cupy", "cupyx", "cupy_backends")


@functools.cache
def _modules() -> dict[str, types.ModuleType]:
    return namespace.build()


class _Loader(importlib.abc.Loader):
    def __init__(self, import_error: str | None) -> None:
        self._import_error = import_error

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType | None:
        return None if self._import_error else _modules()[spec.name]

    def exec_module(self, module: types.ModuleType) -> None:
        if self._import_error:
            rule = "=" * 64
            raise ImportError(
                f"\n{rule}\nFailed to import CuPy.\n\nOriginal error:\n  ImportError: {self._import_error}\n{rule}\n"
            )


class _Finder(importlib.abc.MetaPathFinder):
    def __init__(self, import_error: str | None) -> None:
        self._modules = _modules()
        self._loader = _Loader(import_error)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        if fullname not in self._modules:
            return None
        is_package = any(name.startswith(f"{fullname}.") for name in self._modules)
        return importlib.machinery.ModuleSpec(fullname, self._loader, is_package=is_package)


class _Installation:
    """The state that is restored when an installation ends."""

    def __init__(self, finder: _Finder) -> None:
        self.finder = finder
        self.state = dict(vars(STATE))
        self.pool_limit = POOL.limit
        self.modules = _take_out()


_installations: list[_Installation] = []


def _is_cupys(name: str) -> bool:
    parts = name.split(".")
    return parts[0] in _ROOTS or parts[:2] == ["array_api_compat", "cupy"]


def _take_out() -> dict[str, types.ModuleType]:
    """Remove CuPy's modules and array-api-compat's caches about CuPy; return the removed modules."""
    removed = {name: sys.modules.pop(name) for name in list(sys.modules) if _is_cupys(name)}
    if "array_api_compat" in sys.modules:
        vars(sys.modules["array_api_compat"]).pop("cupy", None)
    _forget_classes()
    return removed


def _put_back(modules: dict[str, types.ModuleType]) -> None:
    sys.modules.update(modules)
    if "array_api_compat.cupy" in modules:
        sys.modules["array_api_compat"].cupy = modules["array_api_compat.cupy"]  # type: ignore[attr-defined]


def _forget_classes() -> None:
    """Clear array-api-compat's caches of the library of each class."""
    helpers = sys.modules.get("array_api_compat.common._helpers")
    for function in vars(helpers).values() if helpers is not None else ():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


def install(
    *,
    device_count: int = 1,
    driver: str = "sufficient",
    import_error: str | None = None,
    memory_limit: int | None = None,
    architecture: str = "sm_80",
) -> None:
    """Let ``import cupy`` find the stand-in from now on, with all counters at zero.

    Installations nest: each hides the previous one, which `uninstall` restores.

    Parameters
    ----------
    device_count : int
        Number of devices; with 0 CUDA reports that it detects none.
    driver : {"sufficient", "insufficient", "missing"}
        With the last two CuPy can be imported, but every use of a device fails.
    import_error : str, optional
        Message of the ImportError that importing CuPy raises, for instance
        ``"libcuda.so.1: cannot open shared object file: No such file or directory"``.
    memory_limit : int, optional
        Bytes of memory of the device; more raises ``cupy.cuda.memory.OutOfMemoryError``.
    architecture : str
        A key of `architecture.ARCHITECTURES`, whose limits apply to every launch.

    Raises
    ------
    ValueError
        For an unknown driver or a negative number.
    """
    if driver not in DRIVERS:
        raise ValueError(f"driver: expected one of {', '.join(DRIVERS)}, got {driver!r}")
    if device_count < 0:
        raise ValueError(f"device_count: expected at least 0, got {device_count}")
    installation = _Installation(_Finder(import_error))
    STATE.reset()
    POOL.free_all_blocks()
    POOL.limit = 0
    Stream.null.use()
    STATE.device_count = device_count
    STATE.driver_version = DRIVERS[driver]
    STATE.architecture = ARCHITECTURES[architecture]
    if memory_limit is not None:
        STATE.memory_size = memory_limit
    if driver != "sufficient":
        STATE.failure = errors.INSUFFICIENT_DRIVER
    elif device_count == 0:
        STATE.failure = errors.NO_DEVICE
    _installations.append(installation)
    sys.meta_path.insert(0, installation.finder)


def uninstall() -> None:
    """Remove the latest installation and restore the previous modules; without one, do nothing."""
    if not _installations:
        return
    installation = _installations.pop()
    sys.meta_path.remove(installation.finder)
    _take_out()
    _put_back(installation.modules)
    vars(STATE).update(installation.state)
    POOL.limit = installation.pool_limit


@contextlib.contextmanager
def installed(
    *,
    device_count: int = 1,
    driver: str = "sufficient",
    import_error: str | None = None,
    memory_limit: int | None = None,
    architecture: str = "sm_80",
) -> Iterator[types.ModuleType | None]:
    """Install the stand-in inside a ``with`` block; yields the module ``cupy``, or None if importing fails."""
    install(
        device_count=device_count,
        driver=driver,
        import_error=import_error,
        memory_limit=memory_limit,
        architecture=architecture,
    )
    try:
        yield None if import_error else __import__("cupy")
    finally:
        uninstall()
