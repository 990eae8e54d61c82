"""How the host kernels are compiled: one decorator, one set of options, and what the processor offers.

Numba's ``error_model="numpy"`` lets loops with divisions vectorize; the global interpreter lock is released; the
machine code is kept on disk (`capgpu.kernels.cpu.code_cache`).

`compiled` makes two dispatchers of a function, each of which compiles on demand for the types of its calls::

    Python code    ---->  python_version    boxes and unboxes arguments; its code is kept on disk
    compiled code  ---->  native_version    has no wrapper for Python; becomes a part of its callers' code

Most functions are called from one of the two sides only, so that one of the two is never compiled.
"""

from __future__ import annotations

import platform
from collections.abc import Callable
from typing import Any, TypeVar

import llvmlite.binding as llvm
from numba import njit, types
from numba.core import config

from capgpu.kernels.cpu.code_cache import keep_on_disk, load_undisturbed
from capgpu.kernels.cpu.front_end import KernelCompiler
from capgpu.kernels.cpu.late_code import compile_late

__all__ = ["ACCUMULATORS", "FUSES", "VECTOR_BYTES", "compiled", "named_like"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(
    *, fastmath: frozenset[str] = frozenset(), inline: bool = False, allocates: bool = False
) -> Callable[[F], F]:
    """Compile a function for the host.

    Parameters
    ----------
    fastmath : set of str
        LLVM fast-math flags beside "contract" (a product and a sum in one rounding), only where a loop needs them to
        vectorize. A sum of two products can be contracted in two ways, with other bits: it is written with
        `capgpu.kernels.cpu.fast_math.multiply_add`.
    inline : bool
        Paste the function into its callers before optimizing.
    allocates : bool
        Whether the function makes NumPy arrays (one temporary array is better made with
        `capgpu.kernels.cpu.task_memory.allocate`). References are counted then, of each view as well, by two atomic
        operations. A function that does not count them must not return an array, not even an argument: a caller that
        does would release a reference that was never added.

    Returns
    -------
    callable
        The decorator.
    """
    options: dict[str, Any] = {
        "nogil": True,
        "error_model": "numpy",
        "fastmath": set(fastmath) | {"contract"},
        "inline": "always" if inline else "never",
        "_nrt": allocates,
        # nothing takes these functions for C functions; 6% of the processor time of compiling an LSTM's loss
        "no_cfunc_wrapper": True,
        "pipeline_class": KernelCompiler,
    }

    def decorate(function: F) -> F:
        python_version: Any = njit(**options)(function)
        native_version: Any = njit(**options, no_cpython_wrapper=True)(function)
        _share_code_for_literals(native_version)
        _redirect_compiled_callers(python_version, native_version)
        for dispatcher in (python_version, native_version):
            compile_late(dispatcher, dispatcher.targetctx)
        keep_on_disk(python_version)
        load_undisturbed(python_version)
        result: F = python_version
        return result

    return decorate


def named_like(origin: Callable[..., Any], function: F, name: str | None = None) -> F:
    """Give a function that another one has made a name in the module of `origin`, by default its name; return it.

    Code on disk, and symbols in it, are found by name: each function that is made needs its own.
    """
    function.__module__ = origin.__module__
    function.__name__ = function.__qualname__ = name or origin.__name__
    return function


def _redirect_compiled_callers(python_version: Any, native_version: Any) -> None:
    """Make compiled callers of `python_version` resolve and link `native_version` instead."""
    python_version.native_version = native_version  # for `task_code`, which links the code itself
    python_version.get_call_template = native_version.get_call_template
    python_version.get_overload = native_version.get_overload


def _share_code_for_literals(dispatcher: Any) -> None:
    """Resolve calls with constants to the code for variables of the same types.

    Numba would compile the function for each constant anew (`capgpu.kernels.cpu.gemm.product_with_packed` 14 times).
    LLVM still propagates the constants where it inlines the function.
    """
    template_for = dispatcher.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return template_for(tuple(map(types.unliteral, args)), {name: types.unliteral(kws[name]) for name in kws})

    dispatcher.get_call_template = get_call_template


def _features() -> set[str]:
    """Return LLVM's names of the instruction sets that compiled code may use."""
    setting = config.CPU_FEATURES  # NUMBA_CPU_FEATURES, "+avx2,-avx512f"; None where it is unset
    if setting is not None:
        return {feature[1:] for feature in setting.split(",") if feature.startswith("+")}
    try:
        features = {name for name, is_present in llvm.get_host_cpu_features().items() if is_present}
    except RuntimeError:  # llvmlite cannot query this processor
        features = set()
    if not features and platform.machine().lower() in ("arm64", "aarch64"):
        # llvmlite reports nothing on macOS; these are part of every 64-bit ARM processor
        features = {"neon"}
    return features


def _vector_unit() -> tuple[int, int]:
    """Return the bytes of a vector register, and how many registers hold the sums of a tile: three quarters of them."""
    features = _features()
    if "avx512f" in features:
        return 64, 24
    if "avx" in features:
        return 32, 12
    if "neon" in features:
        return 16, 24
    return 16, 12


#: Bytes of a vector register, and how many registers a matrix tile may keep its sums in (of 32, or of 16).
VECTOR_BYTES, ACCUMULATORS = _vector_unit()
#: Whether a product and a sum can be one instruction.
FUSES = "fma" in _features() or "neon" in _features()
