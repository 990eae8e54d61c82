"""Measure the variants of the recurrences on the current device, for `launch_heuristics` to choose by."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np

from capgpu.dtypes import named_dtype
from capgpu.kernels.cuda import compile, launch_heuristics, stopwatch, tuning_cache
from capgpu.kernels.cuda.recurrence import (
    Steps,
    lstm_backward_into,
    lstm_forward_into,
    rnn_backward_into,
    rnn_forward_into,
)

__all__ = ["Measured", "measure", "passes", "store"]

#: Batches whose median is taken, where there are as many repeats.
_BATCHES = 5


@dataclass(frozen=True)
class Measured:
    """One plan's time for a whole pass.

    Attributes
    ----------
    name : str
        The pass, a key of `tiers.PASSES`.
    plan : LaunchConfig
        Tier and variant.
    milliseconds : float
        Device time: median over batches of repeats, see `capgpu.kernels.cuda.stopwatch`.
    queued : bool
        Whether the queue was kept full; otherwise the figure includes time of the host.
    """

    name: str
    plan: launch_heuristics.LaunchConfig
    milliseconds: float
    queued: bool


def measure(cell: str, dtype: str, H: int, N: int, T: int, repeats: int = 20) -> list[Measured]:
    """Time every plan that fits the current device, forward and backward.

    Parameters
    ----------
    cell : {"lstm", "rnn"}
        Cell.
    dtype : str
        Storage type.
    H, N, T : int
        Hidden units, sequences, steps (all sequences equally long).
    repeats : int
        Timed passes of each plan; fewer where the host takes long to launch one.

    Returns
    -------
    list of Measured
        Forward before backward, the fastest first. Plans that the driver refuses to launch are left out.
    """
    found = []
    batches = min(_BATCHES, repeats)
    for name, run in passes(cell, dtype, H, N, T).items():
        timed = []
        for plan in launch_heuristics.candidates(name, dtype, H, N):
            with suppress(compile.CooperativeLaunchError):
                elapsed = stopwatch.device_time(partial(run, plan), batches, -(-repeats // batches))
                timed.append(Measured(name, plan, elapsed.milliseconds, elapsed.queued))
        found.extend(sorted(timed, key=lambda entry: entry.milliseconds))
    return found


def store(measured: list[Measured], dtype: str, H: int, N: int) -> Any:
    """Keep the fastest plan of each pass; see `capgpu.kernels.cuda.tuning_cache.store`."""
    fastest: dict[str, tuple[str, int]] = {}
    for entry in sorted(measured, key=lambda entry: entry.milliseconds):
        fastest.setdefault(tuning_cache.shape_key(entry.name, dtype, H, N), (entry.plan.tier, entry.plan.units))
    launch_heuristics.forget()
    return tuning_cache.store(compile.device_limits().name, fastest)


def passes(
    cell: str, dtype: str, H: int, N: int, T: int
) -> dict[str, Callable[[launch_heuristics.LaunchConfig], None]]:
    """Create data of a shape, and return the two passes over them.

    Parameters
    ----------
    cell, dtype, H, N, T
        As for `measure`.

    Returns
    -------
    dict of str to callable
        By the pass's name, a key of `tiers.PASSES`; each is called with the plan to run it with.
    """
    cupy = import_module("cupy")
    random = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return cupy.asarray((random.uniform(-1, 1, shape) / np.sqrt(H)).astype(named_dtype(dtype)))

    steps, rows, gates = Steps.of(np.full(T, N)), N * T, 4 * H if cell == "lstm" else H
    projected, h0, Wh, dhidden, hidden = draw(rows, gates), draw(N, H), draw(H, gates), draw(rows, H), draw(rows, H)
    dgates, dh0 = cupy.empty_like(projected), cupy.empty_like(h0)
    if cell == "rnn":
        return {
            "rnn_forward": lambda plan: rnn_forward_into(projected, None, h0, Wh, steps, hidden, plan=plan),
            "rnn_backward": lambda plan: rnn_backward_into(dhidden, hidden, Wh, steps, dgates, dh0, plan=plan),
        }
    cells, activated, dc0 = draw(rows, H), draw(rows, gates), cupy.empty_like(h0)
    return {
        "lstm_forward": lambda plan: lstm_forward_into(
            projected, None, h0, None, Wh, steps, hidden, cells, activated, plan=plan
        ),
        "lstm_backward": lambda plan: lstm_backward_into(
            dhidden, None, activated, cells, None, Wh, steps, dgates, dh0, dc0, plan=plan
        ),
    }
