"""PyTorch on a GPU: cuDNN's layer over padded or packed captions, the padded step compiled or captured; fused Adam.

``graphed`` captures a whole step (loss, gradients, Adam) in one CUDA graph and replays it: captions of one shape only.
Precisions: both of PyTorch's switches for TF32 are off in ``float32`` and on in ``tf32``; in ``float16`` and
``bfloat16`` parameters, gradients and Adam's means have that type, as in capgpu (no autocast, no loss scaling).
What a training loop knows of the captions on the host (lengths, places of the words) is counted beforehand.
"""

from __future__ import annotations

from typing import Any

import torch

from bench.peers import NoDeviceError
from bench.peers.torch_peer import TorchTask
from bench.workloads import DROPOUT, Workload, split_job

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}
_WARM_UP = 3
_CALIBRATION_CYCLES = 1_000_000


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
        self._cycles_a_ms = 0.0

    def mark(self) -> Any:
        """Put an event into the queue."""
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def milliseconds(self, start: Any, end: Any) -> float:
        """Return the time between two events that have passed."""
        return float(start.elapsed_time(end))

    def passed(self, event: Any) -> bool:
        """Return whether the device has come to an event; does not wait."""
        return bool(event.query())

    def wait(self) -> None:
        """Wait until the queue is empty."""
        torch.cuda.synchronize()

    def fill(self, milliseconds: float) -> None:
        """Launch a spinning kernel, which leaves the caches as they are."""
        if milliseconds <= 0:
            return
        if not self._cycles_a_ms:
            for _ in range(2):  # the first loads the kernel
                start = self.mark()
                torch.cuda._sleep(_CALIBRATION_CYCLES)
                end = self.mark()
                self.wait()
            self._cycles_a_ms = _CALIBRATION_CYCLES / max(self.milliseconds(start, end), 1e-6)
        torch.cuda._sleep(int(milliseconds * self._cycles_a_ms))


class CudaTorchTask(TorchTask):
    """One job in one of the modes and precisions."""

    def __init__(self, mode: str, work: Workload, job: str, precision: str = "float32", device: str = "cuda") -> None:
        torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
        torch.backends.cudnn.allow_tf32 = precision == "tf32"
        job, dropout = split_job(job)
        dtype = DTYPES.get(precision, torch.float32)
        super().__init__(mode, work, job, device, dtype, DROPOUT if dropout else 0.0)
        self.clock = TorchClock()
        self._graph: Any = None

    def make_optimizer(self, **settings: Any) -> torch.optim.Optimizer:
        """Return Adam; in a graph with its counters on the device, and a rate that can be set between replays."""
        if self.mode == "graphed":
            rate = torch.tensor(1e-3, device=self.device)
            settings = {"lr": rate, "capturable": self.device != "cpu", **settings}
        return super().make_optimizer(**settings)

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate."""
        if self.mode == "graphed" and self.job == "adam":
            self.optimizer.param_groups[0]["lr"].fill_(rate)
        else:
            super().set_rate(rate)

    def build(self) -> None:
        """Compile, or capture the step in a graph; parameters and Adam's state are as before."""
        if self.mode != "graphed":
            super().build()
            return
        initial_params = [param.detach().clone() for param in self.params]
        # libraries load and allocate in the first steps, which a stream that captures does not allow
        side_stream = torch.cuda.Stream()
        side_stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side_stream):
            for _ in range(_WARM_UP):
                super().step()
        torch.cuda.current_stream().wait_stream(side_stream)
        self._restore(initial_params)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            super().step()
        self._graph = graph

    @torch.no_grad()
    def _restore(self, params: list[torch.Tensor]) -> None:
        for param, value in zip(self.params, params, strict=True):
            param.copy_(value)
            param.grad = None  # the capture allocates gradients in the graph's own memory
        if self.job == "adam":
            for state in self.optimizer.state.values():
                for tensor in state.values():
                    tensor.zero_()

    def launch(self) -> None:
        """Do the job once; the device may still be at it."""
        if self._graph is not None:
            self._graph.replay()
        else:
            super().step()

    def step(self) -> None:
        """Do the job once, to its end."""
        self.launch()
        self.clock.wait()

    def release(self) -> None:
        """Drop the last step's result; a graph writes into its own at each replay, and keeps it."""
        if self._graph is None:
            super().release()


def make_task(mode: str, work: Workload, job: str, precision: str = "float32") -> CudaTorchTask:
    """Return the task of `mode`: padded, packed, compiled or graphed."""
    return CudaTorchTask(mode, work, job, precision)
