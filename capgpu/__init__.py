"""Image captioning with recurrent networks: one layer code on NumPy and CuPy, with fused kernels.

``CAPGPU_BACKEND`` (``numpy``, ``cpu``, ``cuda``, a list in order of preference, or ``auto``) selects the backend of new
arrays; functions compute where their arguments are. Importing this package loads nothing else and probes no device.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from types import ModuleType

    from capgpu import (
        backend,
        captioner,
        captions,
        checkpoint,
        data,
        decode,
        distributed,
        dtypes,
        errors,
        evaluation,
        file_formats,
        gradcheck,
        interchange,
        kernels,
        layers,
        metrics,
        model,
        optim,
        random,
        report,
        sequence,
        serve,
        solver,
        tokens,
        trained,
        training,
        vision,
        vocabulary,
    )
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
    from capgpu.captions import Caption
    from capgpu.errors import CapgpuError
    from capgpu.model import CaptioningRNN
    from capgpu.solver import CaptioningSolver
    from capgpu.trained import TrainedCaptioner, load
    from capgpu.training.self_critical import SelfCritical

    xp: ModuleType

__version__ = "0.1.0"

__all__ = [
    "BackendUnavailableError",
    "CapgpuError",
    "Caption",
    "CaptioningRNN",
    "CaptioningSolver",
    "SelfCritical",
    "TrainedCaptioner",
    "array_namespace",
    "asarray",
    "backend",
    "backend_info",
    "captioner",
    "captions",
    "checkpoint",
    "current_backend",
    "data",
    "decode",
    "distributed",
    "dtypes",
    "errors",
    "evaluation",
    "file_formats",
    "gradcheck",
    "interchange",
    "kernels",
    "layers",
    "load",
    "metrics",
    "model",
    "optim",
    "random",
    "report",
    "sequence",
    "serve",
    "set_backend",
    "solver",
    "synchronize",
    "to_numpy",
    "tokens",
    "trained",
    "training",
    "use_backend",
    "vision",
    "vocabulary",
    "xp",
]

_LAZY = {
    **dict.fromkeys(("BackendUnavailableError", "array_namespace", "asarray", "backend_info"), "capgpu.backend"),
    **dict.fromkeys(("current_backend", "set_backend", "synchronize", "to_numpy", "use_backend"), "capgpu.backend"),
    "CapgpuError": "capgpu.errors",
    "Caption": "capgpu.captions",
    "CaptioningRNN": "capgpu.model",
    "CaptioningSolver": "capgpu.solver",
    "SelfCritical": "capgpu.training.self_critical",
    "TrainedCaptioner": "capgpu.trained",
    "load": "capgpu.trained",
}


def __getattr__(name: str) -> Any:
    # xp is resolved at each use, so that it always is the namespace of the backend in force
    if name == "xp":
        return import_module("capgpu.backend").current_backend().xp
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    if name in __all__:  # a module or subpackage (PEP 562): importing it makes it an attribute
        return import_module(f"capgpu.{name}")
    raise AttributeError(f"module 'capgpu' has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__, "__doc__", "__version__"]
