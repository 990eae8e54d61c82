"""Counts of the functions of kernels.cpu that Numba has compiled, or loaded, in this process."""

from __future__ import annotations

import importlib
import pkgutil

import capgpu.kernels.cpu

__all__ = ["compilations"]


def compilations() -> int:
    """Count the signatures of all compiled functions of the package."""
    compiled = {}
    for entry in pkgutil.iter_modules(capgpu.kernels.cpu.__path__):
        for value in vars(importlib.import_module(f"capgpu.kernels.cpu.{entry.name}")).values():
            if hasattr(value, "signatures"):
                compiled[id(value)] = len(value.signatures)
    return sum(compiled.values())
