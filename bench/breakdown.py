"""The time of a capgpu training step by part.

The functions that a step calls are wrapped with timers; each part is charged its own time, without that of wrapped
functions that it calls.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np

REST = "rest"
PARTS = {
    "_checked": "checks",
    "caption_batch": "packing",
    "apply_dropout": "dropout",
    "matmul": "other products",
    "take_rows": "embedding",
    "lstm_forward": "recurrence forward",
    "rnn_forward": "recurrence forward",
    "linear_cross_entropy": "vocabulary and loss",
    "lstm_backward": "recurrence backward",
    "rnn_backward": "recurrence backward",
    "embedding_gradient": "embedding gradient",
    "scatter_rows": "embedding gradient",
    "add_rows": "embedding gradient",
    "column_sums": "biases",
    "decode_step": "decode step",
    "step": "update",
}


class Clock:
    """Charges time to parts; the time of a nested part is subtracted from the outer one."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inner = [0.0]

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, charging its own time to `part`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                elapsed = time.perf_counter() - start
                self.spent[part] = self.spent.get(part, 0.0) + elapsed - self._inner.pop()
                self._inner[-1] += elapsed

        return timed


@contextmanager
def timed_parts(clock: Clock) -> Iterator[None]:
    """Wrap the parts of a step for as long as the context lasts."""
    from capgpu.kernels.reference import OPERATIONS
    from capgpu.optim import Optimizer

    names = ("model", "model_base", "captioner", "captioner_steps")
    model, model_base, captioner, captioner_steps = (import_module(f"capgpu.{name}") for name in names)
    kernels_for: Any = captioner.kernels_for

    def timed_kernels(array: Any, precision: str = "float32") -> Any:
        kernels = kernels_for(array, precision)
        operations = {name: clock.wrap(PARTS[name], getattr(kernels, name)) for name in OPERATIONS if name in PARTS}
        return type("TimedKernels", (type(kernels),), {name: staticmethod(run) for name, run in operations.items()})()

    def patched(owner: Any, name: str) -> Any:
        return mock.patch.object(owner, name, clock.wrap(PARTS[name], getattr(owner, name)))

    with (
        mock.patch.object(model_base, "kernels_for", timed_kernels),
        mock.patch.object(captioner, "kernels_for", timed_kernels),
        mock.patch.object(captioner_steps, "kernels_for", timed_kernels),
        patched(model.CaptioningRNN, "_checked"),
        patched(Optimizer, "step"),
    ):
        yield


def parts_of_step(step: Callable[[], None], steps: int) -> dict[str, float]:
    """Return the median milliseconds of each part over `steps` runs; ``rest`` is what no part covers."""
    clock = Clock()
    runs: list[dict[str, float]] = []
    with timed_parts(clock):
        for _ in range(steps):
            clock.spent = {}
            start = time.perf_counter()
            step()
            elapsed = time.perf_counter() - start
            runs.append({**clock.spent, REST: elapsed - sum(clock.spent.values())})
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: float(np.median([run.get(name, 0.0) for run in runs]) * 1e3) for name in names}
