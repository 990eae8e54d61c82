"""Image captioning with recurrent networks: one layer code on NumPy and CuPy, with fused kernels.

``CAPGPU_BACKEND`` (``numpy``, ``cpu``, ``cuda``, a list in order of preference, or ``auto``) selects the backend of new
arrays; functions compute where their arguments are. Importing this package loads nothing heavier than NumPy and probes
no device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from capgpu.backend import (
    BackendUnavailableError,
    array_namespace,
    asarray,
    backend_info,
    current_backend,
    set_backend,
    synchronize,
    to_numpy,
    use_backend,
)
from capgpu.errors import CapgpuError

if TYPE_CHECKING:
    from capgpu.model import CaptioningRNN
    from capgpu.solver import CaptioningSolver

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailableError",
    "CapgpuError",
    "CaptioningRNN",
    "CaptioningSolver",
    "array_namespace",
    "asarray",
    "backend_info",
    "current_backend",
    "set_backend",
    "synchronize",
    "to_numpy",
    "use_backend",
    "xp",
]

_LAZY = {"CaptioningRNN": "capgpu.model", "CaptioningSolver": "capgpu.solver"}


def __getattr__(name: str) -> Any:
    # xp is resolved at each use, so that it always is the namespace of the backend in force
    if name == "xp":
        return current_backend().xp
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'capgpu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
