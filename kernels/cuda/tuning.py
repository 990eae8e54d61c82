"""Measuring the tiers of the recurrences on the current device, for `capgpu.kernels.cuda.tiers` to choose by."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from statistics import median
from typing import Any

import numpy as np

from capgpu.kernels.cuda import choices, module, tiers
from capgpu.kernels.cuda.recurrence import (
    Steps,
    lstm_backward_into,
    lstm_forward_into,
    rnn_backward_into,
    rnn_forward_into,
)

__all__ = ["Measured", "measure", "store"]

_WARM_UP = 3


@dataclass(frozen=True)
class Measured:
    """One plan's time for a whole pass.

    Attributes
    ----------
    name : str
        The pass, a key of `tiers.PASSES`.
    plan : Plan
        Tier and variant.
    milliseconds : float
        Median over the repeats, between two events in the device's queue.
    """

    name: str
    plan: tiers.Plan
    milliseconds: float


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
        Timed passes of each plan.

    Returns
    -------
    list of Measured
        Forward before backward, the fastest first.
    """
    found = []
    for name, run in _passes(cell, dtype, H, N, T).items():
        timed = [Measured(name, plan, _time(run, plan, repeats)) for plan in tiers.candidates(name, dtype, H, N)]
        found.extend(sorted(timed, key=lambda entry: entry.milliseconds))
    return found


def store(measured: list[Measured], dtype: str, H: int, N: int) -> Any:
    """Keep the fastest plan of each pass; see `capgpu.kernels.cuda.choices.store`."""
    fastest: dict[str, tuple[str, int]] = {}
    for entry in sorted(measured, key=lambda entry: entry.milliseconds):
        fastest.setdefault(choices.shape_key(entry.name, dtype, H, N), (entry.plan.tier, entry.plan.units))
    tiers.forget()
    return choices.store(module.device_limits().name, fastest)


def _passes(cell: str, dtype: str, H: int, N: int, T: int) -> dict[str, Callable[[tiers.Plan], None]]:
    """Make data of a shape and the two passes over them, each to be run with a plan."""
    cupy = import_module("cupy")
    random = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return cupy.asarray((random.uniform(-1, 1, shape) / np.sqrt(H)).astype(dtype))

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


def _time(run: Callable[[tiers.Plan], None], plan: tiers.Plan, repeats: int) -> float:
    cuda = import_module("cupy").cuda
    for _ in range(_WARM_UP):
        run(plan)
    times = []
    for _ in range(repeats):
        start, end = cuda.Event(), cuda.Event()
        start.record()
        run(plan)
        end.record()
        end.synchronize()
        times.append(float(cuda.get_elapsed_time(start, end)))
    return median(times)
