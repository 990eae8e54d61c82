"""Compilation and launch of the kernels: sources, compiled modules, device limits, launches.

CuPy caches compiled code in its folder (see `capgpu.kernel_cache`). Where that fails, each process compiles for itself.
"""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

from capgpu import kernel_cache
from capgpu.errors import CapgpuError
from capgpu.kernels.cuda import device_calls
from capgpu.kernels.cuda.constants import large_shared
from capgpu.kernels.cuda.kernel_registry import REGISTRY, Entry, compiler_options

__all__ = [
    "CooperativeLaunchError",
    "Kernel",
    "KernelCompilationError",
    "LaunchError",
    "Limits",
    "device_limits",
    "forget",
    "kernel",
    "refuse_fork",
    "source",
]

#: Bytes of dynamic shared memory that a block may use without opt-in, on every architecture.
_DEFAULT_SHARED = 48 * 1024
#: Maximum number of launch configurations of a kernel that are remembered as valid.
_MAX_CHECKED_LAUNCHES = 1024
#: CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE and CUDA_ERROR_NOT_SUPPORTED: returned by a part of a device (MIG) or a
#: share of it (MPS) for a launch that fits the limits that it reports. Nothing has run then.
_REFUSALS = (720, 801)
_INCLUDE = re.compile(r'#include "(\w+\.cuh)"')


class KernelCompilationError(CapgpuError, RuntimeError):
    """A kernel does not compile for this device; the message holds the architecture, the options and the log."""


class LaunchError(CapgpuError, RuntimeError):
    """A launch that exceeds this device's limits, or that this process cannot make."""


class CooperativeLaunchError(LaunchError):
    """The driver refuses a cooperative launch. From then on `device_limits` reports the device as not cooperative."""


@dataclass(frozen=True)
class Limits:
    """Limits of a device, as it reports them.

    Attributes
    ----------
    name : str
        The device's name.
    compute_capability : tuple of int
        Major and minor.
    multiprocessors : int
        Number of multiprocessors.
    shared_per_block : int
        Maximum bytes of shared memory per block, with opt-in.
    shared_per_multiprocessor : int
        Bytes of shared memory per multiprocessor.
    threads_per_block, threads_per_multiprocessor : int
        Maximum numbers of threads.
    registers_per_multiprocessor : int
        Number of 32-bit registers.
    cooperative : bool
        Whether launches can be cooperative; False also after the driver has refused one.
    clock_hz : float
        Maximum clock of the multiprocessors; 0 if the driver does not report it.
    """

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    shared_per_block: int
    shared_per_multiprocessor: int
    threads_per_block: int
    threads_per_multiprocessor: int
    registers_per_multiprocessor: int
    cooperative: bool
    clock_hz: float = 0.0


_limits: dict[int, Limits] = {}
_modules: dict[tuple[Any, ...], Any] = {}
_kernels: dict[tuple[Any, ...], Kernel] = {}
_forked = False
_cached = True


def _after_fork() -> None:
    global _forked
    # a CUDA context does not survive a fork: the parent's kernels cannot be used here
    _forked = _forked or bool(_modules)


if hasattr(os, "register_at_fork"):  # no forks on Windows
    os.register_at_fork(after_in_child=_after_fork)


def forget() -> None:
    """Clear the cached kernels and device limits (for tests, which change the device)."""
    global _cached
    _cached = True
    _limits.clear()
    _modules.clear()
    _kernels.clear()


@cache
def source(file: str) -> str:
    """Return the text that is compiled for a source file: common.cuh, then the file.

    Parameters
    ----------
    file : str
        Name of a ``.cu`` file beside this one.

    Returns
    -------
    str
        CUDA C++ with ``#line`` directives; ``#include`` of a file beside this one is replaced by its text, since NVRTC
        receives one string.
    """
    return _numbered("common.cuh") + _numbered(file)


def _numbered(file: str) -> str:
    text = (Path(__file__).parent / file).read_text(encoding="utf-8")
    lines = []
    for number, line in enumerate(text.splitlines(), start=1):
        included = _INCLUDE.fullmatch(line)
        lines.append(f'{_numbered(included[1])}#line {number + 1} "{file}"' if included else line)
    return f'#line 1 "{file}"\n' + "\n".join(lines) + "\n"


def device_limits() -> Limits:
    """Return the limits of the current device; cached.

    Returns
    -------
    Limits
        As the device reports them.
    """
    import cupy

    runtime = cupy.cuda.runtime
    number = runtime.getDevice()
    limits = _limits.get(number)
    if limits is None:
        properties = runtime.getDeviceProperties(number)
        name = properties["name"]
        limits = _limits[number] = Limits(
            name=name.decode() if isinstance(name, bytes) else str(name),
            compute_capability=(properties["major"], properties["minor"]),
            multiprocessors=properties["multiProcessorCount"],
            shared_per_block=properties["sharedMemPerBlockOptin"],
            shared_per_multiprocessor=properties["sharedMemPerMultiprocessor"],
            threads_per_block=properties["maxThreadsPerBlock"],
            threads_per_multiprocessor=properties["maxThreadsPerMultiProcessor"],
            registers_per_multiprocessor=properties["regsPerMultiprocessor"],
            cooperative=bool(properties["cooperativeLaunch"]),
            clock_hz=1e3 * properties.get("clockRate", 0),
        )
    return limits


def kernel(name: str, dtype: Any, **defines: int) -> Kernel:
    """Return a kernel, ready to be launched on the current device; compiled at the first call.

    Parameters
    ----------
    name : str
        Entry point, see `capgpu.kernels.cuda.kernel_registry`.
    dtype : dtype or str
        Storage type of its arrays.
    **defines : int
        Macros of the variant.

    Returns
    -------
    Kernel
        The same object at each call on one device.

    Raises
    ------
    KernelCompilationError
        With the architecture, the options and the compiler's log.
    LaunchError
        In a process forked from one that had used the device.
    """
    import cupy

    # keyed by the caller's objects: the name of a dtype and the order of macros are slow to compute
    key = (name, dtype, tuple(defines.items()), cupy.cuda.runtime.getDevice())
    compiled = _kernels.get(key)
    if compiled is None:
        refuse_fork()
        by_name = (name, getattr(dtype, "name", dtype), tuple(sorted(defines.items())), key[3])
        compiled = _kernels[key] = _kernels[by_name] = _kernels.get(by_name) or _load(*by_name)
    return compiled


def _load(name: str, dtype: str, defines: tuple[tuple[str, int], ...], device: int) -> Kernel:
    import cupy

    entry = REGISTRY[name]
    if dtype not in entry.dtypes or defines not in entry.variants:
        raise KeyError(f"kernel {name} has no variant {dict(defines)} of {dtype}: add it to kernel_registry.")
    options = compiler_options(entry.file, dtype, defines, large_shared(device_limits().compute_capability))
    key = (entry.file, dtype, defines, entry.cooperative, device)
    module = _modules.get(key)
    try:
        if module is None:
            module = cupy.RawModule(
                code=source(entry.file),
                options=options,
                backend="nvrtc",
                enable_cooperative_groups=entry.cooperative,
            )
            _compile(module)
            _modules[key] = module
        return Kernel(entry, dtype, module.get_function(name))
    except cupy.cuda.compiler.CompileException as error:
        major, minor = device_limits().compute_capability
        raise KernelCompilationError(
            f"kernel {name} ({entry.file}, {dtype}) does not compile for sm_{major}{minor} "
            f"({device_limits().name}) with {' '.join(options)}:\n{error}\n"
            "CAPGPU_KERNELS=reference computes without these kernels."
        ) from error


def _compile(module: Any) -> None:
    """Compile a module; in memory, after a first failure to read or write CuPy's folder."""
    global _cached
    if _cached:
        try:
            module.compile()
            return
        except OSError as error:
            _cached = False
            warnings.warn(
                f"CuPy cannot store compiled kernels on disk ({error}): each process compiles for itself. Set "
                "CUPY_CACHE_DIR to a writable folder.",
                RuntimeWarning,
                stacklevel=2,
            )
    with kernel_cache.in_memory():
        module.compile()


def refuse_fork() -> None:
    """Raise LaunchError in a process forked from one that had used the device."""
    if _forked:
        raise LaunchError(
            "this process was forked from one that had used the GPU, and CUDA does not survive a fork. Start workers "
            'with multiprocessing.set_start_method("spawn"), or touch the GPU in the child alone.'
        )


class Kernel:
    """A compiled kernel on one device.

    Parameters
    ----------
    entry : Entry
        The kernel's entry in the registry.
    dtype : str
        Storage type.
    function : cupy.RawKernel
        The compiled function.
    """

    def __init__(self, entry: Entry, dtype: str, function: Any) -> None:
        self.name = entry.name
        self.block = entry.block
        self.cooperative = entry.cooperative
        self._function = function
        self._shared_opted_in = _DEFAULT_SHARED
        self._occupancy: dict[tuple[int, int], int] = {}
        self._checked: set[tuple[int, int, int]] = set()

    def __call__(self, grid: int, block: int, args: Sequence[Any], shared: int = 0) -> None:
        """Launch the kernel on the current stream; nothing is launched for an empty grid.

        Parameters
        ----------
        grid, block : int
            Number of blocks, and of threads per block, a multiple of 32.
        args : sequence
            Device arrays, NumPy scalars of the exact types, and NumPy arrays of size 1 for structures passed by value.
        shared : int
            Bytes of dynamic shared memory per block.

        Raises
        ------
        LaunchError
            If the launch exceeds the limits of the kernel or of the device.
        CooperativeLaunchError
            If the driver refuses a cooperative launch.
        """
        if grid == 0:
            return
        if _forked:
            refuse_fork()
        if (grid, block, shared) not in self._checked:
            self._check(grid, block, shared)
        device_calls.report(self.name)
        try:
            self._function((grid,), (block,), args, shared_mem=shared)
        except RuntimeError as error:
            cuda = import_module("cupy").cuda
            if not self.cooperative or getattr(error, "status", None) not in _REFUSALS:
                raise
            if cuda.get_current_stream().is_capturing():
                raise  # a refused capture does not imply that launches are refused
            _limits[cuda.runtime.getDevice()] = replace(device_limits(), cooperative=False)
            raise CooperativeLaunchError(
                f"kernel {self.name}: the driver refuses a cooperative launch of {grid} blocks of {block} threads and "
                f"{shared} bytes of shared memory: {error}"
            ) from error

    def _check(self, grid: int, block: int, shared: int) -> None:
        """Validate a launch against the limits and remember that it is valid."""
        if block % 32 or not 0 < block <= self.block or not 0 < grid < 2**31:
            raise LaunchError(
                f"kernel {self.name}: expected blocks of at most {self.block} threads, a multiple of 32, got a grid of "
                f"{grid} blocks of {block} threads."
            )
        if shared > self._shared_opted_in:
            self._opt_in(shared)
        if self.cooperative:
            max_grid = self.max_blocks_per_multiprocessor(block, shared) * device_limits().multiprocessors
            if grid > max_grid:
                # CuPy would shrink the grid with a warning, and blocks would wait forever for others
                raise LaunchError(
                    f"kernel {self.name}: expected a cooperative launch of at most {max_grid} resident blocks, got "
                    f"{grid} blocks of {block} threads and {shared} bytes of shared memory."
                )
        if len(self._checked) >= _MAX_CHECKED_LAUNCHES:
            self._checked.clear()
        self._checked.add((grid, block, shared))

    def _opt_in(self, shared: int) -> None:
        limit = device_limits().shared_per_block
        if shared > limit:
            raise LaunchError(
                f"kernel {self.name}: expected at most {limit} bytes of shared memory per block on this device, "
                f"got {shared}."
            )
        self._function.max_dynamic_shared_size_bytes = shared
        self._shared_opted_in = shared

    @property
    def attributes(self) -> dict[str, int]:
        """Return the driver's attributes of the kernel (registers, local memory), under CuPy's names; compiles it."""
        return dict(self._function.attributes)

    def max_blocks_per_multiprocessor(self, block: int, shared: int = 0) -> int:
        """Return the number of blocks that can be resident on a multiprocessor, as computed by the driver.

        Parameters
        ----------
        block : int
            Threads of a block.
        shared : int
            Bytes of dynamic shared memory of a block.

        Returns
        -------
        int
            0 if not even one block fits.
        """
        blocks = self._occupancy.get((block, shared))
        if blocks is None:
            if shared > device_limits().shared_per_block:
                return 0
            if shared > self._shared_opted_in:
                self._opt_in(shared)
            driver = import_module("cupy_backends.cuda.api.driver")
            blocks = int(driver.occupancyMaxActiveBlocksPerMultiprocessor(self._function.kernel.ptr, block, shared))
            self._occupancy[block, shared] = blocks
        return blocks
