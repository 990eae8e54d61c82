"""capgpu's decoders through their public interface; mode is the backend, job the decoder."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bench.peers.ours import OurTask, versions
from bench.workloads import SAMPLE_LENGTH, Workload
from capgpu.backend import synchronize, to_numpy
from capgpu.decode import DecodeResult, beam_search, greedy, sample

__all__ = ["DecodingTask", "make_task", "versions"]


class DecodingTask(OurTask):
    """Decode 100 captions by one decoder."""

    def __init__(self, mode: str, work: Workload, job: str) -> None:
        super().__init__(mode, work, "sample100")
        decode: dict[str, Callable[..., Any]] = {
            "words": type(self.model).sample,
            "greedy": greedy,
            "drawn": sample,
            "nucleus": sample,
        }
        settings: dict[str, Any] = {
            "drawn": {"seed": 0},
            "nucleus": {"seed": 0, "top_p": 0.9},
            "words": {"stop_at_end": True},
        }.get(job, {})
        if job.startswith("beam"):
            settings["width"] = int(job.removeprefix("beam"))
        if job != "words":
            settings["suppress_unk"] = False  # as PyTorch's loop, and as model.sample
        self.decode = decode.get(job, beam_search)
        self.settings = {**settings, "max_length": SAMPLE_LENGTH}

    def launch(self) -> None:
        """Write the captions."""
        self.decoded = self.decode(self.model, self.features, **self.settings)

    def step(self) -> None:
        """Write the captions, to their end."""
        self.launch()
        synchronize()

    def result(self) -> dict[str, np.ndarray]:
        """Return the log-probability of each caption, or the words if the decoder returns only these."""
        if not isinstance(self.decoded, DecodeResult):
            return {"words": to_numpy(self.decoded)}
        return {"scores": to_numpy(self.decoded.scores)[:, 0]}


def make_task(mode: str, work: Workload, job: str) -> DecodingTask:
    """Return the task on backend `mode`."""
    return DecodingTask(mode, work, job)
