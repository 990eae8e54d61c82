"""PyTorch on a GPU: cuDNN's layer over padded or packed captions, or the padded step compiled; fused Adam.

Both of PyTorch's switches for TF32 are off, as in capgpu: all compute in float32.
"""

from __future__ import annotations

from typing import Any

import torch

from bench.peers import NoDeviceError
from bench.peers.torch_peer import TorchTask
from bench.workloads import Workload


def versions() -> dict[str, Any]:
    """Return what this competitor runs on."""
    if not torch.cuda.is_available():
        raise NoDeviceError(f"PyTorch {torch.__version__} finds no CUDA device")
    return {
        "torch": torch.__version__,
        "torch's CUDA": str(torch.version.cuda),
        "torch's cuDNN": str(torch.backends.cudnn.version()),
    }


class TorchClock:
    """PyTorch's events on the current stream."""

    def __init__(self) -> None:
        self._square: torch.Tensor | None = None
        self._square_ms = 1.0

    def mark(self) -> Any:
        """Put an event into the queue."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self, start: Any, end: Any) -> float:
        """Return the time between two events that have passed."""
        return float(start.elapsed_time(end))

    def wait(self) -> None:
        """Wait until the queue is empty."""
        torch.cuda.synchronize()

    def fill(self, milliseconds: float) -> None:
        """Put products of squares into the queue."""
        if milliseconds <= 0:
            return
        if self._square is None:
            self._square = torch.zeros((2048, 2048), device="cuda")
            for _ in range(2):  # the first loads the library
                start = self.mark()
                self._square @ self._square
                end = self.mark()
                self.wait()
                self._square_ms = self.milliseconds(start, end)
        for _ in range(int(milliseconds / self._square_ms) + 1):
            self._square @ self._square


class CudaTorchTask(TorchTask):
    """One job in one of the modes."""

    def __init__(self, mode: str, work: Workload, job: str) -> None:
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        super().__init__(mode, work, job, device="cuda")
        self.clock = TorchClock()

    def launch(self) -> None:
        """Do the job once; the device may still be at it."""
        super().step()

    def step(self) -> None:
        """Do the job once, to its end."""
        self.launch()
        self.clock.wait()


def make_task(mode: str, work: Workload, job: str) -> CudaTorchTask:
    """Return the task of `mode`: padded, packed or compiled."""
    return CudaTorchTask(mode, work, job)
