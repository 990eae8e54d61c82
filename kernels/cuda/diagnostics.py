"""The description of device, kernels and cached files that `capgpu info` prints."""

from __future__ import annotations

import os
from importlib import import_module

from capgpu import kernel_cache
from capgpu.kernels.cuda import launch_heuristics, tuning_cache
from capgpu.kernels.cuda.compile import device_limits
from capgpu.kernels.cuda.kernel_registry import ENTRIES, variants_of

__all__ = ["device_description"]


def device_description() -> dict[str, str]:
    """Describe the current device and what is installed for it.

    Returns
    -------
    dict of str to str
        Text by label. Nothing is compiled.
    """
    runtime = import_module("cupy").cuda.runtime
    limits = device_limits()
    free, total = runtime.memGetInfo()
    driver, installed = _version(runtime.driverGetVersion()), _version(runtime.runtimeGetVersion())
    return {
        "driver": f"supports CUDA {driver}; CuPy contains {installed}",
        "memory": f"{total / 2**30:.1f} GiB, {free / 2**30:.1f} free",
        "multiprocessors": f"{limits.multiprocessors}, {limits.shared_per_block // 1024} KiB shared memory a block",
        "cuda kernels": f"{len(ENTRIES)}, in {sum(len(variants_of(entry)) for entry in ENTRIES)} variants",
        "tensor cores": _tensor_cores(),
        "kernel cache": kernel_cache.folder(),
        "recurrences": _measured(tuning_cache.stored(limits.name)),
        "tuning file": str(tuning_cache.path()),
    }


def _tensor_cores() -> str:
    """Return which products use tensor cores: the recurrences by our setting, cuBLAS's float32 by CuPy's."""
    words = {launch_heuristics.PLAIN: "off", launch_heuristics.ROUNDED: "on", launch_heuristics.SPLIT: "split in two"}
    single = launch_heuristics.tensor_cores_used("float32")
    allowed = {
        "recurrences of half types": words[launch_heuristics.tensor_cores_used("float16")],
        "recurrences of float32": "on, rounded to TF32" if single == launch_heuristics.ROUNDED else words[single],
        "products of float32": "on, rounded to TF32" if os.environ.get("CUPY_TF32") == "1" else "off",
    }
    return "; ".join(f"{where}: {state}" for where, state in allowed.items())


def _version(number: int) -> str:
    return f"{number // 1000}.{number % 1000 // 10}"


def _measured(stored: dict[str, tuple[str, int]]) -> str:
    if not stored:
        return "by heuristics (capgpu tune measures them)"
    shapes = (
        f"{key}: {algorithm}{f' of {units} units' if units else ''}"
        for key, (algorithm, units) in sorted(stored.items())
    )
    return "measured for " + "; ".join(shapes) + "; others by heuristics"
