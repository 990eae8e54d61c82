"""Kernels whose products round their factors to bfloat16, without a keyword in every call."""

from __future__ import annotations

import functools
import inspect
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capgpu.kernels.reference import Kernels

__all__ = ["multiplying", "with_rounded_products"]


@functools.cache
def multiplying() -> tuple[str, ...]:
    """Return the names of the operations that multiply matrices of the model: those that take a precision."""
    from capgpu.kernels.reference import OPERATIONS, Kernels

    return tuple(name for name in OPERATIONS if "precision" in inspect.signature(getattr(Kernels, name)).parameters)


@functools.cache
def with_rounded_products(kernels: Kernels) -> Kernels:
    """Return kernels whose operations are called with ``precision="bf16"``."""
    operations = {
        name: staticmethod(functools.partial(getattr(kernels, name), precision="bf16")) for name in multiplying()
    }
    rounding: Kernels = type("RoundingKernels", (type(kernels),), operations)()
    return rounding
