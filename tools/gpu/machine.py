"""The stage ``env``: print the card, the driver and versions, and check which modules can be imported.

    python -m tools.gpu.machine

Exit status: 0 nothing is missing; 1 a package is missing or broken; 2 there is no device that CuPy can use.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

from tools.gpu.machine_setup import PLUGINS, plugins, program
from tools.gpu.stages import NO_DEVICE

__all__ = ["device", "imported", "main"]

#: Modules without which a stage cannot run.
REQUIRED = (
    *("cupy", "cupyx", "array_api_compat.cupy", "array_api_strict", "numba", "safetensors", "click", "rich"),
    *("matplotlib", "PIL", "hypothesis", "pytest"),
)
#: Modules without which a part of a stage is skipped.
OPTIONAL = ("torch", "ml_dtypes", "cupy.cuda.nccl", "h5py", "onnx", "onnxruntime")
PACKAGES = (
    *("numpy", "cupy-cuda13x", "cupy-cuda12x", "numba", "llvmlite", "array-api-compat", "array-api-strict"),
    *("torch", "triton", "ml-dtypes", "pytest", "pytest-xdist", "pytest-timeout", "hypothesis", "setuptools"),
    *("cuda-pathfinder", "nvidia-cuda-nvrtc", "nvidia-cublas", "nvidia-cudnn-cu13", "nvidia-nccl-cu13", "safetensors"),
    *("click", "rich"),
)
PROGRAMS = ("nvidia-smi", "nvcc", "compute-sanitizer", "ncu", "g++")
_SMI = "name,driver_version,memory.total,clocks.max.sm,clocks.max.mem,clocks.sm,persistence_mode,mig.mode.current"


def device() -> str:
    """Return the name of the device.

    Raises
    ------
    BackendUnavailableError
        If there is no usable device; the message gives the cause.
    """
    from capgpu.backend import backend_info, set_backend

    set_backend("cuda")
    return str(backend_info()["device"])


def imported(module: str) -> str:
    """Import a module in a process of its own, where warnings are errors.

    Returns
    -------
    str
        ``"ok"``, ``"warns: "`` with the warning where it imports all the same, or ``"missing: "`` with the error.
    """

    def attempt(*options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, *options, "-c", f"import {module}"]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    strict = attempt("-W", "error")
    if strict.returncode == 0:
        return "ok"
    lenient = attempt()
    state, stderr = ("warns", strict.stderr) if lenient.returncode == 0 else ("missing", lenient.stderr)
    return f"{state}: {(stderr.strip().splitlines() or ['no message'])[-1]}"


def _versions() -> str:
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:
            continue
    return ", ".join(versions)


def main() -> int:
    """Print the report; return the exit status."""
    from capgpu.backend import BackendUnavailableError

    print(f"python {platform.python_version()} ({sys.executable}), {os.cpu_count()} processors, {platform.platform()}")
    smi = shutil.which("nvidia-smi")
    if smi is not None:
        query = [smi, f"--query-gpu={_SMI}", "--format=csv"]
        print(subprocess.run(query, capture_output=True, text=True, check=False).stdout.strip())
    for name in PROGRAMS:
        print(f"{name}: {program(name) or 'not found'}")
    print(_versions())
    missing_plugins = [name for name in PLUGINS if name not in plugins()]
    if missing_plugins:
        print(f"pytest plugins that are missing: {', '.join(missing_plugins)}")
    with ThreadPoolExecutor() as pool:
        states = dict(zip((*REQUIRED, *OPTIONAL), pool.map(imported, (*REQUIRED, *OPTIONAL)), strict=True))
    for module, state in states.items():
        print(f"import {module}: {state}")
    try:
        print(f"device: {device()}")
    except BackendUnavailableError as error:
        print(f"no device to run on. {error}")
        return NO_DEVICE
    missing = [module for module in REQUIRED if states[module].startswith("missing")]
    if missing:
        print(f"missing: {', '.join(missing)}. Bring them as wheels, see tools/gpu/README.md")
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
