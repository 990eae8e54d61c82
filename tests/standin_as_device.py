"""A pytest plugin: take the stand-in for CuPy for a real device, to see on a CPU what the tests do on a GPU.

    python -m pytest -p tests.standin_as_device -m gpu tests/kernels/cuda

``import cupy`` finds the stand-in with its emulated kernels, as an H100, before conftest.py looks for a device. All
that the tests import of the stand-in and of the emulator after that is another copy of their modules, in which nothing
is installed and nothing is counted, as on a machine with a GPU. A test that runs on the device and yet asks the
stand-in for anything fails here, too.

The kernels are executed on the CPU: this shows which tests run on a device and what they ask of it, not that the
kernels are right on a GPU, and nothing about time. Work is done at once, so that a missing synchronization goes unseen.
"""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from typing import Any

import pytest

TESTS = Path(__file__).resolve().parent
COPIED = ("simulators",)


def _imported() -> list[str]:
    return [name for name in sys.modules if name.split(".")[0] in COPIED]


def _runner(folder: Path) -> Any:
    """Return what executes kernels, and refuses sources that are written for the emulator alone, as NVRTC does."""
    emulated = importlib.import_module("simulators.emulator.runner").EmulatorRunner
    refusal = importlib.import_module("simulators.cupy_standin.compiler").CompileException

    class Runner(emulated):
        def compile(self, module: Any) -> None:
            if "emulator::" in module.code:
                words = 'error: name followed by "::" must be a class or namespace name: emulator'
                raise refusal(words, module.code, "kernel.cu", module.options)
            super().compile(module)

    return Runner(folder)


def _install() -> None:
    if _imported():
        raise pytest.UsageError(f"{__name__} must be loaded first; {_imported()[0]} has been imported")
    sys.path.insert(0, str(TESTS))
    try:
        build = importlib.import_module("simulators.emulator.build")
        if build.missing():
            raise pytest.UsageError(f"{__name__}: {build.missing()}")
        standin = importlib.import_module("simulators.cupy_standin")
        standin.install(architecture="sm_90")
        standin.set_kernel_runner(_runner(TESTS.parent / "build" / "emulator"))
        # products are made by the stand-in's cuBLAS, as a device's are by the library that CuPy has loaded
        library = importlib.import_module("simulators.cupy_standin.cublas").Library()
        importlib.import_module("capgpu.kernels.cuda.cublas")._open = lambda: library
        for name in _imported():
            del sys.modules[name]
    finally:
        sys.path.remove(str(TESTS))


_install()
