"""``cupy.cuda.driver``: attributes and launch limits of compiled kernels."""

from __future__ import annotations

import itertools
import weakref
from dataclasses import dataclass
from typing import Any

from .architecture import MAX_REGISTERS, REGISTERS, WARP
from .errors import ensure_usable
from .state import STATE

INVALID_VALUE = 1
COOPERATIVE_LAUNCH_TOO_LARGE = 720
NOT_SUPPORTED = 801

_EXPLANATIONS = {
    INVALID_VALUE: ("CUDA_ERROR_INVALID_VALUE", "invalid argument"),
    COOPERATIVE_LAUNCH_TOO_LARGE: (
        "CUDA_ERROR_COOPERATIVE_LAUNCH_TOO_LARGE",
        "too many blocks in cooperative launch",
    ),
    NOT_SUPPORTED: ("CUDA_ERROR_NOT_SUPPORTED", "operation not supported"),
}

MAX_THREADS = 1024  # per block, on every architecture
DEFAULT_SHARED = 48 * 1024  # bytes of dynamic shared memory without opt-in
ASSUMED_REGISTERS = 64  # per thread, if the device compiler's number is unknown


class CUDADriverError(RuntimeError):
    """An error of the CUDA driver; `hint` is the stand-in's explanation, which a device does not give."""

    def __init__(self, status: int, hint: str = "") -> None:
        self.status = status
        message = "{}: {}".format(*_EXPLANATIONS[status])
        super().__init__(f"{message} ({hint})" if hint else message)


CUDADriverError.__module__ = "cupy_backends.cuda.api.driver"


@dataclass(frozen=True)
class Attributes:
    """Attributes of a compiled kernel.

    Attributes
    ----------
    threads : int
        Maximum threads per block by its launch bounds, 0 without bounds.
    shared : int
        Bytes of static shared memory.
    registers : int
        Registers per thread, 0 if unknown.
    """

    threads: int = 0
    shared: int = 0
    registers: int = 0


_pointers = itertools.count(0x9000, 0x10)
_functions: weakref.WeakValueDictionary[int, Function] = weakref.WeakValueDictionary()


class Function:
    """A kernel on the device."""

    def __init__(self, name: str, attributes: Attributes) -> None:
        self.name = name
        self.ptr = next(_pointers)
        self.shared = attributes.shared
        bound = attributes.threads or MAX_THREADS
        # with launch bounds the compiler limits registers so that a block of this size fits
        fitting = REGISTERS // (-(-bound // WARP) * WARP) // 8 * 8
        self.registers = attributes.registers or min(ASSUMED_REGISTERS, fitting, MAX_REGISTERS)
        self.threads = min(bound, MAX_THREADS)
        self.dynamic_shared = DEFAULT_SHARED - self.shared
        _functions[self.ptr] = self

    def allow_dynamic_shared(self, size: int) -> None:
        """Allow launches with up to `size` bytes of dynamic shared memory."""
        max_size = STATE.architecture.shared_optin - self.shared
        if not 0 <= size <= max_size:
            raise CUDADriverError(
                INVALID_VALUE, f"kernel {self.name}: {size} bytes of dynamic shared memory of {max_size}"
            )
        self.dynamic_shared = size

    def resident_blocks(self, threads: int, dynamic_shared: int) -> int:
        """Return the number of blocks that can be resident on a multiprocessor."""
        if threads > self.threads or dynamic_shared > self.dynamic_shared:
            return 0
        return STATE.architecture.resident_blocks(threads, self.shared + dynamic_shared, self.registers)

    def check_launch(
        self, grid: tuple[int, int, int], block: tuple[int, int, int], shared: int, cooperative: bool
    ) -> None:
        """Raise for a launch that the device would refuse, or that CuPy would change."""
        threads, blocks = block[0] * block[1] * block[2], grid[0] * grid[1] * grid[2]
        if threads > self.threads or block[2] > 64:
            raise CUDADriverError(INVALID_VALUE, f"kernel {self.name}: {threads} threads a block of {self.threads}")
        if grid[0] >= 2**31 or max(grid[1:]) >= 2**16:
            raise CUDADriverError(INVALID_VALUE, f"kernel {self.name}: a grid of {grid}")
        if shared > self.dynamic_shared:
            raise CUDADriverError(
                INVALID_VALUE,
                f"kernel {self.name}: {shared} bytes of dynamic shared memory, allowed are {self.dynamic_shared}",
            )
        if cooperative and STATE.cooperative_refusal is not None:
            raise CUDADriverError(STATE.cooperative_refusal)
        max_blocks = self.resident_blocks(threads, shared) * STATE.architecture.multiprocessors
        if cooperative and blocks > max_blocks:
            # CuPy shrinks a one-dimensional grid with a warning: the kernel would compute only a part, or deadlock
            raise CUDADriverError(
                COOPERATIVE_LAUNCH_TOO_LARGE,
                f"kernel {self.name}: {blocks} blocks of {threads} threads, {max_blocks} are on the device at once",
            )


def occupancyMaxActiveBlocksPerMultiprocessor(func: int, blockSize: int, dynamicSMemSize: int) -> int:
    """Return the number of blocks of a kernel that can be resident on a multiprocessor."""
    ensure_usable()
    return _functions[func].resident_blocks(blockSize, dynamicSMemSize)


def public() -> dict[str, Any]:
    """Return the contents of the module ``cupy_backends.cuda.api.driver``."""
    return {
        "CUDADriverError": CUDADriverError,
        "occupancyMaxActiveBlocksPerMultiprocessor": occupancyMaxActiveBlocksPerMultiprocessor,
    }
