"""``cupy.RawModule`` and ``cupy.RawKernel``, whose CUDA C++ is compiled and executed by a kernel runner on the host.

Without a runner everything except compiling and launching works. `set_kernel_runner` registers one.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from .array import ndarray
from .driver import Attributes, Function
from .errors import ensure_usable
from .extension import ExtensionType
from .graph import Graph
from .memory import owner_of, pointer_to
from .state import STATE, UndefinedOnDeviceError
from .stream import get_current_stream


class KernelRunner(Protocol):
    """Compiles and executes kernels in place of NVRTC and the device."""

    def compile(self, module: RawModule) -> None:
        """Compile `module.code` with `module.options`; raise ``CompileException`` if that fails."""

    def get_function(self, module: RawModule, name: str) -> Attributes | None:
        """Return the attributes of a kernel; raise if the module has no kernel of this name."""

    def launch(
        self,
        kernel: RawKernel,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        shared_mem: int,
        stream: Any,
    ) -> None:
        """Execute a kernel; `args` are the arguments passed to CuPy, including device arrays."""


def set_kernel_runner(runner: KernelRunner | None) -> None:
    """Set the kernel runner; None removes it."""
    STATE.kernel_runner = runner


def _runner(purpose: str) -> KernelRunner:
    ensure_usable()
    if STATE.kernel_runner is None:
        raise RuntimeError(
            f"{purpose}: the stand-in for CuPy has no kernel runner; register one with cupy_standin.set_kernel_runner()"
        )
    return STATE.kernel_runner


def _expect(name: str, value: Any, expected_type: type) -> None:
    if value is not None and type(value) is not expected_type:
        raise TypeError(
            f"Argument '{name}' has incorrect type (expected {expected_type.__name__}, got {type(value).__name__})"
        )


class RawModule(metaclass=ExtensionType):
    """CUDA C++ source, compiled at the first use of one of its kernels."""

    def __init__(
        self,
        *,
        code: str | None = None,
        path: str | None = None,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        translate_cucomplex: bool = False,
        enable_cooperative_groups: bool = False,
        name_expressions: Any = None,
        jitify: Any = None,
    ) -> None:
        for name, value, expected_type in (("code", code, str), ("path", path, str), ("options", options, tuple)):
            _expect(name, value, expected_type)
        if (code is None) == (path is None):
            raise TypeError("Exactly one of `code` and `path` keyword arguments must be given.")
        self.code = code
        self.file_path = path
        self.options = options
        self.backend = backend
        self.enable_cooperative_groups = enable_cooperative_groups
        self.name_expressions = None if name_expressions is None else tuple(name_expressions)
        self._compiled = False
        self._functions: dict[str, Function] = {}

    def compile(self, log_stream: Any = None) -> None:
        """Compile the source."""
        _runner("compiling a RawModule").compile(self)
        self._compiled = True

    def get_function(self, name: str) -> RawKernel:
        """Return a kernel of the module."""
        _expect("name", name, str)
        self._function(name)
        return RawKernel._of(self, name)

    def _function(self, name: str) -> Function:
        if not self._compiled:
            self.compile()
        if name not in self._functions:
            attributes = _runner(f"kernel {name}").get_function(self, name)
            self._functions[name] = Function(name, attributes or Attributes())
        return self._functions[name]


class RawKernel(metaclass=ExtensionType):
    """A kernel, called with grid, block and arguments."""

    def __init__(
        self,
        code: str,
        name: str,
        options: tuple[str, ...] = (),
        backend: str = "nvrtc",
        *,
        translate_cucomplex: bool = False,
        enable_cooperative_groups: bool = False,
        jitify: Any = None,
    ) -> None:
        _expect("name", name, str)
        self.name = name
        self.module = RawModule(
            code=code, options=options, backend=backend, enable_cooperative_groups=enable_cooperative_groups
        )

    @classmethod
    def _of(cls, module: RawModule, name: str) -> RawKernel:
        kernel = object.__new__(cls)
        kernel.name = name
        kernel.module = module
        return kernel

    @property
    def kernel(self) -> Function:
        """The function on the device; compiles it."""
        return self.module._function(self.name)

    @property
    def num_regs(self) -> int:
        """Registers of a thread."""
        return self.kernel.registers

    @property
    def shared_size_bytes(self) -> int:
        """Bytes of static shared memory."""
        return self.kernel.shared

    @property
    def max_threads_per_block(self) -> int:
        """The most threads of a block."""
        return self.kernel.threads

    @property
    def max_dynamic_shared_size_bytes(self) -> int:
        """Bytes of dynamic shared memory that a launch can have; can be set."""
        return self.kernel.dynamic_shared

    @max_dynamic_shared_size_bytes.setter
    def max_dynamic_shared_size_bytes(self, size: int) -> None:
        self.kernel.allow_dynamic_shared(size)

    @property
    def attributes(self) -> dict[str, int]:
        """The driver's attributes of the kernel; -1 where only a device knows the value."""
        unknown = ("const_size_bytes", "local_size_bytes", "ptx_version", "cache_mode_ca")
        return {
            **dict.fromkeys((*unknown, "preferred_shared_memory_carveout"), -1),
            "max_threads_per_block": self.max_threads_per_block,
            "shared_size_bytes": self.shared_size_bytes,
            "num_regs": self.num_regs,
            "binary_version": 10 * STATE.architecture.capability[0] + STATE.architecture.capability[1],
            "max_dynamic_shared_size_bytes": self.max_dynamic_shared_size_bytes,
        }

    def __call__(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        args: Sequence[Any],
        *,
        shared_mem: int = 0,
        stream: Any = None,
    ) -> None:
        for name, value in (("grid", grid), ("block", block)):
            _expect(name, value, tuple)
        function = self.kernel
        function.check_launch(_three(grid), _three(block), shared_mem, self.module.enable_cooperative_groups)
        runner = _runner(f"kernel {self.name}")
        stream = get_current_stream() if stream is None else stream
        if stream.is_capturing():
            arguments = tuple(_captured(value) for value in args)
            graph: Graph = stream._graph
            graph._add(lambda: runner.launch(self, grid, block, [get() for get in arguments], shared_mem, stream))
        else:
            runner.launch(self, grid, block, args, shared_mem, stream)


def _captured(value: Any) -> Callable[[], Any]:
    """Return a function that gives an argument for each launch of a graph, which keeps addresses but no memory."""
    if isinstance(value, np.ndarray):
        by_value = value.copy()
        return lambda: by_value
    if not isinstance(value, ndarray):
        return lambda: value
    owner, shape, dtype, strides = weakref.ref(owner_of(value._host)), value.shape, value.dtype, value.strides
    offset = value.data.ptr - pointer_to(owner()).ptr

    def array() -> ndarray:
        memory = owner()
        if memory is None:
            raise UndefinedOnDeviceError("a graph was launched whose memory has been freed")
        return ndarray(shape, dtype, pointer_to(memory) + offset, strides)

    return array


def _three(extents: tuple[int, ...]) -> tuple[int, int, int]:
    first, second, third = (*extents, 1, 1)[:3]
    return max(1, first), max(1, second), max(1, third)
