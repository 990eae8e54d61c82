"""A worker of the benchmarks whose GPU is the stand-in: ``python -m simulators.worker MODULE MODE``."""

from __future__ import annotations

from pathlib import Path

import bench.worker
from simulators import cupy_standin
from simulators.emulator.runner import EmulatorRunner

if __name__ == "__main__":
    with cupy_standin.installed():
        cupy_standin.set_kernel_runner(EmulatorRunner(Path(__file__).parents[2] / "build" / "emulator"))
        bench.worker.main()
