"""capgpu on a GPU; the mode says nothing."""

from __future__ import annotations

import dataclasses
from typing import Any

import capgpu
from bench.cuda.devices import reported
from bench.peers import NoDeviceError
from bench.peers.ours import OurTask
from bench.workloads import Workload
from capgpu.backend import BackendUnavailableError, set_backend


def versions() -> dict[str, Any]:
    """Return what this competitor runs on, and whether it is no device at all but a stand-in for CuPy."""
    try:
        set_backend("cuda")
    except BackendUnavailableError as error:
        raise NoDeviceError(str(error)) from error
    import cupy

    runtime = cupy.cuda.runtime
    device = cupy.cuda.Device()
    name = runtime.getDeviceProperties(device.id)["name"]
    name = name.decode() if isinstance(name, bytes) else str(name)
    peaks = reported(name, int(device.compute_capability), device.attributes)
    return {
        "capgpu": capgpu.__version__,
        "cupy": cupy.__version__,
        "device": name,
        "compute capability": device.compute_capability,
        "CUDA runtime": str(runtime.runtimeGetVersion()),
        "CUDA driver": str(runtime.driverGetVersion()),
        # a library on disk has a file; a stand-in made of Python objects has none
        "emulated": getattr(cupy, "__file__", None) is None,
        "peaks": None if peaks is None else dataclasses.asdict(peaks),
    }


class CupyClock:
    """CuPy's events on the current stream."""

    def __init__(self) -> None:
        import cupy

        self._cupy = cupy
        self._stream = cupy.cuda.get_current_stream()
        self._square: Any = None
        self._square_ms = 1.0

    def mark(self) -> Any:
        """Put an event into the queue."""
        return self._stream.record()

    def milliseconds(self, start: Any, end: Any) -> float:
        """Return the time between two events that have passed."""
        return float(self._cupy.cuda.get_elapsed_time(start, end))

    def wait(self) -> None:
        """Wait until the queue is empty."""
        self._stream.synchronize()

    def fill(self, milliseconds: float) -> None:
        """Put products of squares into the queue."""
        if milliseconds <= 0:
            return
        if self._square is None:
            self._square = self._cupy.zeros((2048, 2048), dtype="float32")
            self._product = self._cupy.empty_like(self._square)
            for _ in range(2):  # the first loads the library
                start = self.mark()
                self._cupy.matmul(self._square, self._square, out=self._product)
                end = self.mark()
                self.wait()
                self._square_ms = self.milliseconds(start, end)
        for _ in range(int(milliseconds / self._square_ms) + 1):
            self._cupy.matmul(self._square, self._square, out=self._product)


class CudaTask(OurTask):
    """One job on the GPU."""

    def __init__(self, work: Workload, job: str) -> None:
        super().__init__("cuda", work, job)
        self.clock = CupyClock()


def make_task(mode: str, work: Workload, job: str) -> CudaTask:
    """Return the task."""
    return CudaTask(work, job)
