"""The stand-in's kernel runner: compiles CuPy's modules for the CPU and executes launches there."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from simulators.cupy_standin.compiler import CompileException
from simulators.cupy_standin.driver import Attributes, CUDADriverError
from simulators.cupy_standin.state import UndefinedOnDeviceError
from simulators.emulator import build
from simulators.emulator.arguments import Parameter, pack, parameters_of

ORDERS = ("breadth_first", "reversed", "depth_first", "random")
_MESSAGE = 1024


class KernelFaultError(UndefinedOnDeviceError):
    """A kernel has undefined behaviour, or would hang; the message names kernel, block, thread and line."""


class KernelNotFoundError(CUDADriverError):
    """A module has no kernel of a name."""

    def __init__(self, name: str) -> None:
        RuntimeError.__init__(self, f"CUDA_ERROR_NOT_FOUND: named symbol not found ({name})")


@dataclass(frozen=True)
class Order:
    """The order in which threads and blocks run.

    Attributes
    ----------
    name : str
        One of `ORDERS`.
    seed : int
        Seed of the random order.
    """

    name: str = "breadth_first"
    seed: int = 0

    @property
    def number(self) -> int:
        return ORDERS.index(self.name)


@dataclass(frozen=True)
class Compiled:
    """A module's source, compiled and loaded."""

    handle: int
    shared: dict[str, int]  # bytes of static shared memory by function
    parameters: dict[str, tuple[Parameter, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Launch:
    """One launch, as passed to observers before it is executed."""

    code: str
    options: tuple[str, ...]
    kernel: str
    grid: int
    block: int
    shared: int
    cooperative: bool
    parameters: tuple[Parameter, ...]
    args: tuple[Any, ...]


class EmulatorRunner:
    """Compiles modules with the host's compiler and runs their kernels in this process.

    Parameters
    ----------
    folder : path
        Folder for compiled code.

    Attributes
    ----------
    order : Order
        Order of threads and blocks in the following launches.
    at_once : int
        Number of blocks that run concurrently.
    observers : list of callable
        Called with every `Launch`; a callable returned by an observer is called after the launch.
    """

    def __init__(self, folder: Path) -> None:
        self.build_cache = build.BuildCache(folder)
        self.order = Order()
        self.at_once = 2
        self.observers: list[Callable[[Launch], Callable[[], None] | None]] = []
        self._library: Any = None
        self._compiled: dict[tuple[str, tuple[str, ...]], Compiled] = {}

    def compile(self, module: Any) -> None:
        try:
            self._compile(module)
        except build.BuildError as error:
            raise CompileException(str(error), module.code, "kernel.cu", module.options) from None

    def get_function(self, module: Any, name: str) -> Attributes:
        compiled = self._compile(module)
        if name not in compiled.parameters:
            words = self._runtime().emulator_signature(compiled.handle, name.encode())
            if not words:
                raise KernelNotFoundError(name)
            compiled.parameters[name] = parameters_of(words)
        kernels = build.entry_points(module.code)
        # shared memory declared by helper functions counts for every kernel of the module, that of other kernels not
        shared = sum(size for owner, size in compiled.shared.items() if owner == name or owner not in kernels)
        bounds = self._runtime().emulator_bounds(compiled.handle, name.encode())
        return Attributes(threads=bounds, shared=shared)

    def launch(
        self,
        kernel: Any,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_mem: int,
        stream: Any,
    ) -> None:
        module = kernel.module
        compiled = self._compile(module)
        if max((*grid[1:], *block[1:], 1)) > 1:
            raise NotImplementedError(f"kernel {kernel.name}: grid {grid} of blocks {block}; only x is emulated")
        launch = Launch(
            module.code,
            module.options,
            kernel.name,
            grid[0],
            block[0],
            shared_mem,
            module.enable_cooperative_groups,
            compiled.parameters[kernel.name],
            tuple(args),
        )
        packed = pack(launch.kernel, launch.parameters, launch.args)
        finished = [observer(launch) for observer in self.observers]
        self._run(compiled, launch, packed)
        for finish in finished:
            if finish is not None:
                finish()

    def _run(self, compiled: Compiled, launch: Launch, packed: list[np.ndarray]) -> None:
        pointers = (ctypes.c_void_p * max(1, len(packed)))(*(value.ctypes.data for value in packed))
        message = ctypes.create_string_buffer(_MESSAGE)
        # starting a thread takes longer than a few small blocks
        at_once = self.at_once if self.order.name == "breadth_first" and launch.grid * launch.block >= 2048 else 1
        failed = self._runtime().emulator_launch(
            compiled.handle,
            launch.kernel.encode(),
            pointers,
            launch.grid,
            launch.block,
            launch.shared,
            launch.cooperative,
            self.order.number,
            self.order.seed,
            at_once,
            message,
            _MESSAGE,
        )
        if failed:
            raise KernelFaultError(message.value.decode())

    def _compile(self, module: Any) -> Compiled:
        key = (module.code, module.options)
        compiled = self._compiled.get(key)
        if compiled is None:
            path = self.build_cache.kernel(module.code, module.options)
            message = ctypes.create_string_buffer(_MESSAGE)
            handle = self._runtime().emulator_open(str(path).encode(), None, 0, message, _MESSAGE)
            if not handle:
                raise build.BuildError(message.value.decode())
            compiled = self._compiled[key] = Compiled(handle, build.shared_memory(path))
        return compiled

    def _runtime(self) -> Any:
        if self._library is None:
            library = ctypes.CDLL(str(self.build_cache.library()), mode=ctypes.RTLD_GLOBAL)
            library.emulator_open.restype = ctypes.c_void_p
            library.emulator_open.argtypes = [ctypes.c_char_p, ctypes.c_void_p, ctypes.c_size_t, *_ERROR]
            library.emulator_signature.restype = ctypes.POINTER(ctypes.c_uint)
            library.emulator_signature.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
            library.emulator_bounds.restype = ctypes.c_uint
            library.emulator_bounds.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
            library.emulator_launch.argtypes = [
                *(ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint, ctypes.c_size_t),
                *(ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_uint, *_ERROR),
            ]
            self._library = library
        return self._library


_ERROR = (ctypes.c_char_p, ctypes.c_size_t)
