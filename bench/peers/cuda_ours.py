"""capgpu on a GPU, as in training: features are validated once, before the first step. The mode ``graphed`` uses CUDA
graphs, the others do not.

Precisions: ``float32`` and ``tf32`` are the same model; TF32 is allowed by the environment that the process starts with
(`TENSOR_CORES`). ``float16`` and ``bfloat16`` are dtypes of the model.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np

import capgpu
from bench.cuda.devices import reported
from bench.peers import NoDeviceError
from bench.peers.ours import OurTask
from bench.workloads import DROPOUT, Workload, split_job
from capgpu.backend import BackendUnavailableError, array_namespace, set_backend
from capgpu.random import fold_key
from capgpu.training.graphs import GraphedSteps
from capgpu.validation import check_finite, checked_data

#: The environment of a process whose precision is not float32.
TENSOR_CORES = {"CAPGPU_TENSOR_CORES": "1", "CUPY_TF32": "1"}


def versions() -> dict[str, Any]:
    """Return the versions and the device, and whether that is emulated by the stand-in for CuPy."""
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

        self._cuda = cupy.cuda
        self._stream = cupy.cuda.get_current_stream()

    def mark(self) -> Any:
        """Put an event into the queue."""
        return self._stream.record()

    def milliseconds(self, start: Any, end: Any) -> float:
        """Return the time between two events that have passed."""
        return float(self._cuda.get_elapsed_time(start, end))

    def passed(self, event: Any) -> bool:
        """Return whether the device has come to an event; does not wait."""
        return bool(event.done)

    def wait(self) -> None:
        """Wait until the queue is empty."""
        self._stream.synchronize()

    def fill(self, milliseconds: float) -> None:
        """Launch a spinning kernel, which leaves the caches as they are."""
        from capgpu.kernels.cuda import stopwatch

        stopwatch.fill(milliseconds)


class CudaTask(OurTask):
    """One job on the GPU."""

    def __init__(self, work: Workload, job: str, precision: str = "float32") -> None:
        job, dropout = split_job(job)
        dtype = "float32" if precision == "tf32" else precision
        super().__init__("cuda", work, job, dtype, DROPOUT if dropout else 0.0)
        # once, as a training loop does: looking at features at each step would make the host wait for the device
        check_finite("features", self.features, array_namespace(self.features))
        self.clock = CupyClock()

    def launch(self) -> None:
        """Do the job once; the device may still be at it."""
        with checked_data():
            super().launch()

    def result(self) -> dict[str, np.ndarray]:
        """Return the last step's result; in float32 where the model has half of that."""
        arrays = super().result()
        return {name: a.astype(np.float32) if a.dtype.itemsize == 2 else a for name, a in arrays.items()}


class GraphedTask(CudaTask):
    """A training step as CUDA graphs, as the solver makes it."""

    def __init__(self, work: Workload, job: str, precision: str = "float32") -> None:
        super().__init__(work, job, precision)
        if self.job != "adam":
            raise ValueError(f"expected the job adam, which a graph makes as a whole, got {job!r}.")
        self._steps = GraphedSteps(self.model, self.optimizer, None)

    def launch(self) -> None:
        """Do the job once; the device may still be at it. The first time captures the graph."""
        key = fold_key(0, self.steps) if self.dropout else None
        with checked_data():
            self._steps.loss(self.features, self.captions, 1.0, whole=True, dropout_key=key)
            self._steps.update(1.0)
        self.steps += 1
        self.out = self.model.params


def make_task(mode: str, work: Workload, job: str, precision: str = "float32") -> CudaTask:
    """Return the task; the mode ``graphed`` makes the steps by CUDA graphs."""
    return (GraphedTask if mode == "graphed" else CudaTask)(work, job, precision)
