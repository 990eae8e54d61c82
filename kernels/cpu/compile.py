"""How the host kernels are compiled: one decorator, one set of options, and what the processor offers.

Numba's ``error_model="numpy"`` lets loops with divisions vectorise; the global interpreter lock is released; the
machine code is kept on disk (`capgpu.kernels.cpu.code_cache`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import llvmlite.binding as llvm
from numba import njit
from numba.core import config

from capgpu.kernels.cpu.code_cache import keep_on_disk

__all__ = ["ACCUMULATORS", "FUSES", "VECTOR_BYTES", "compiled"]

F = TypeVar("F", bound=Callable[..., Any])


def compiled(
    *, fastmath: frozenset[str] = frozenset(), inline: bool = False, allocates: bool = True
) -> Callable[[F], F]:
    """Compile a function for the host.

    Parameters
    ----------
    fastmath : set of str
        LLVM fast-math flags beside "contract" (a product and a sum in one rounding), only where a loop needs them to
        vectorise. A sum of two products can be contracted in two ways, with other bits: it is written with
        `capgpu.kernels.cpu.elementary.multiply_add`.
    inline : bool
        Paste the function into its callers before optimising.
    allocates : bool
        False for a function that makes no array: its views are then not counted, which costs two atomic
        operations each.

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
    }

    def decorate(function: F) -> F:
        wrapped: F = njit(**options)(function)
        keep_on_disk(wrapped)
        return wrapped

    return decorate


def _features() -> set[str]:
    chosen = config.CPU_FEATURES
    if chosen is not None:
        return {feature[1:] for feature in chosen.split(",") if feature.startswith("+")}
    return {name for name, present in llvm.get_host_cpu_features().items() if present}


def _vector_unit() -> tuple[int, int]:
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
