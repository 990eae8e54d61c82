"""Where the time of one of our steps goes, by part.

The functions that a step is made of are wrapped with timers while it runs; each part is charged its own time,
without what the wrapped functions inside it took.
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
    """Charges time to parts; a part that runs inside another is taken off the outer one."""

    def __init__(self) -> None:
        self.spent: dict[str, float] = {}
        self._inner = [0.0]

    def wrap(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, charging its own time to `part`."""

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._inner.append(0.0)
            began = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                took = time.perf_counter() - began
                self.spent[part] = self.spent.get(part, 0.0) + took - self._inner.pop()
                self._inner[-1] += took

        return timed


@contextmanager
def timed_parts(clock: Clock) -> Iterator[None]:
    """Wrap the parts of a step for as long as the context lasts."""
    from capgpu.kernels.reference import OPERATIONS
    from capgpu.optim import Optimizer

    model, captioner = (import_module(f"capgpu.{name}") for name in ("model", "captioner"))
    choose: Any = captioner.kernels_for

    def timed_kernels(array: Any, precision: str = "float32") -> Any:
        kernels = choose(array, precision)
        operations = {name: clock.wrap(PARTS[name], getattr(kernels, name)) for name in OPERATIONS if name in PARTS}
        return type("TimedKernels", (type(kernels),), {name: staticmethod(run) for name, run in operations.items()})()

    def plain(owner: Any, name: str) -> Any:
        return mock.patch.object(owner, name, clock.wrap(PARTS[name], getattr(owner, name)))

    with (
        mock.patch.object(model, "kernels_for", timed_kernels),
        mock.patch.object(captioner, "kernels_for", timed_kernels),
        plain(model.CaptioningRNN, "_checked"),
        plain(Optimizer, "step"),
    ):
        yield


def parts_of_step(step: Callable[[], None], steps: int) -> dict[str, float]:
    """Return the median milliseconds of each part over `steps` runs; ``rest`` is what no part covers."""
    clock = Clock()
    runs: list[dict[str, float]] = []
    with timed_parts(clock):
        for _ in range(steps):
            clock.spent = {}
            began = time.perf_counter()
            step()
            took = time.perf_counter() - began
            runs.append({**clock.spent, REST: took - sum(clock.spent.values())})
    names = dict.fromkeys(name for run in runs for name in run)
    return {name: float(np.median([run.get(name, 0.0) for run in runs]) * 1e3) for name in names}
