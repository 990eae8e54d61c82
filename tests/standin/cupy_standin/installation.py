"""Putting the stand-in in CuPy's place among Python's modules, and taking it out without a trace."""

from __future__ import annotations

import contextlib
import functools
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Iterator, Sequence

from . import errors, namespace
from .memory import POOL
from .state import STATE

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
                f"\n{rule}\nFailed to import CuPy.\n\n"
                f"Original error:\n  ImportError: {self._import_error}\n{rule}\n"
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
    """What has to be put back."""

    def __init__(self, finder: _Finder) -> None:
        self.finder = finder
        self.displaced = _take_out()


_installation: _Installation | None = None


def _take_out() -> dict[str, types.ModuleType]:
    """Remove every module of CuPy, and what array-api-compat remembers of it."""
    taken = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] in _ROOTS}
    for name in [name for name in sys.modules if name.split(".")[:2] == ["array_api_compat", "cupy"]]:
        del sys.modules[name]
    compat = sys.modules.get("array_api_compat")
    if compat is not None:
        vars(compat).pop("cupy", None)
    helpers = sys.modules.get("array_api_compat.common._helpers")
    for function in vars(helpers).values() if helpers is not None else ():
        if hasattr(function, "cache_clear"):
            function.cache_clear()
    return taken


def install(
    *,
    device_count: int = 1,
    driver: str = "sufficient",
    import_error: str | None = None,
    memory_limit: int | None = None,
) -> None:
    """Let ``import cupy`` find the stand-in from now on.

    Parameters
    ----------
    device_count : int
        Number of devices; with 0 CUDA reports that it detects none.
    driver : {"sufficient", "insufficient", "missing"}
        With the last two CuPy can be imported, but every use of a device fails.
    import_error : str, optional
        The words with which importing CuPy fails, for instance
        ``"libcuda.so.1: cannot open shared object file: No such file or directory"``.
    memory_limit : int, optional
        Bytes of memory of the device; more raises ``cupy.cuda.memory.OutOfMemoryError``.

    Raises
    ------
    RuntimeError
        If the stand-in is installed already.
    ValueError
        For an unknown driver or a negative number.
    """
    global _installation
    if _installation is not None:
        raise RuntimeError("the stand-in for CuPy is installed already: uninstall() it first")
    if driver not in DRIVERS:
        raise ValueError(f"driver {driver!r}: wanted one of {', '.join(DRIVERS)}")
    if device_count < 0:
        raise ValueError(f"device_count {device_count}: wanted 0 or more")
    STATE.reset()
    POOL.free_all_blocks()
    POOL.limit = 0
    STATE.device_count = device_count
    STATE.memory_limit = memory_limit
    STATE.driver_version = DRIVERS[driver]
    if driver != "sufficient":
        STATE.failure = errors.INSUFFICIENT_DRIVER
    elif device_count == 0:
        STATE.failure = errors.NO_DEVICE
    _installation = _Installation(_Finder(import_error))
    sys.meta_path.insert(0, _installation.finder)


def uninstall() -> None:
    """Take the stand-in out and put back what was there; without one, do nothing."""
    global _installation
    if _installation is None:
        return
    sys.meta_path.remove(_installation.finder)
    _take_out()
    sys.modules.update(_installation.displaced)
    _installation = None
    STATE.reset()


@contextlib.contextmanager
def installed(
    *,
    device_count: int = 1,
    driver: str = "sufficient",
    import_error: str | None = None,
    memory_limit: int | None = None,
) -> Iterator[types.ModuleType | None]:
    """`install` for the length of a with block; gives the module ``cupy``, or None where importing fails."""
    install(device_count=device_count, driver=driver, import_error=import_error, memory_limit=memory_limit)
    try:
        yield None if import_error else __import__("cupy")
    finally:
        uninstall()
