"""Measure the variants of the recurrences on the current device, as the basis of `launch_heuristics`' choice."""

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
    CELLS,
    BackwardInputs,
    BackwardOutputs,
    ForwardInputs,
    ForwardOutputs,
    Steps,
    backward_into,
    forward_into,
)

__all__ = ["Measured", "measure", "passes", "store"]

#: Batches whose median is taken, where there are as many repeats.
_BATCHES = 5


@dataclass(frozen=True)
class Measured:
    """The time of a whole pass in one configuration.

    Attributes
    ----------
    name : str
        The pass, a key of `launch_heuristics.PASSES`.
    config : LaunchConfig
        Algorithm and variant.
    milliseconds : float
        Device time: median over batches of repeats, see `capgpu.kernels.cuda.stopwatch`.
    queued : bool
        Whether the device never waited for the host; otherwise the figure includes host time.
    """

    name: str
    config: launch_heuristics.LaunchConfig
    milliseconds: float
    queued: bool


def measure(cell: str, dtype: str, H: int, N: int, T: int, repeats: int = 20) -> list[Measured]:
    """Time every configuration that fits the current device, forward and backward.

    Parameters
    ----------
    cell : str
        A key of `capgpu.kernels.cells.CELLS`.
    dtype : str
        Storage type.
    H, N, T : int
        Hidden units, sequences, steps (all sequences equally long).
    repeats : int
        Timed passes of each configuration; fewer where the host takes long to launch one.

    Returns
    -------
    list of Measured
        Forward before backward, the fastest first. Configurations that the driver refuses to launch are omitted.
    """
    measured = []
    batches = min(_BATCHES, repeats)
    for name, run in passes(cell, dtype, H, N, T).items():
        measured_pass = []
        for config in launch_heuristics.candidates(name, dtype, H, N):
            with suppress(compile.CooperativeLaunchError):
                elapsed = stopwatch.device_time(partial(run, config), batches, -(-repeats // batches))
                measured_pass.append(Measured(name, config, elapsed.milliseconds, elapsed.queued))
        measured.extend(sorted(measured_pass, key=lambda entry: entry.milliseconds))
    return measured


def store(measured: list[Measured], dtype: str, H: int, N: int) -> Any:
    """Store the fastest configuration of each pass; see `capgpu.kernels.cuda.tuning_cache.store`."""
    fastest: dict[str, tuple[str, int]] = {}
    for entry in sorted(measured, key=lambda entry: entry.milliseconds):
        fastest.setdefault(
            tuning_cache.shape_key(entry.name, dtype, H, N), (entry.config.algorithm, entry.config.units)
        )
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
        By the pass's name, a key of `launch_heuristics.PASSES`; each is called with the configuration to launch.
    """
    cupy = import_module("cupy")
    random = np.random.default_rng(0)

    def draw(*shape: int) -> Any:
        return cupy.asarray((random.uniform(-1, 1, shape) / np.sqrt(H)).astype(named_dtype(dtype)))

    shape = CELLS[cell].shape
    steps, rows, G = Steps.of(np.full(T, N)), N * T, shape.n_gates * H
    projected, h0, Wh, dhidden, hidden = draw(rows, G), draw(N, H), draw(H, G), draw(rows, H), draw(rows, H)
    bias = draw(shape.n_biases * H) if shape.n_biases > shape.n_gates else None
    gates = draw(rows, shape.n_saved * H) if shape.n_saved else None
    cells, dc0 = (draw(rows, H), cupy.empty_like(h0)) if shape.has_state else (None, None)
    dinputs = cupy.empty_like(projected) if shape.splits_gradient else None
    inputs, outputs = ForwardInputs(projected, None, h0, None, Wh, bias), ForwardOutputs(hidden, cells, gates)
    # without saved gates, the backward pass reads the hidden states in their place; with gates and without a state c,
    # those before each row, too
    states = cells if shape.has_state else hidden if shape.n_saved else None
    gradients = BackwardInputs(dhidden, None, hidden if gates is None else gates, states, None, Wh)
    results = BackwardOutputs(cupy.empty_like(projected), cupy.empty_like(h0), dc0, dinputs)
    return {
        f"{cell}_forward": lambda config: forward_into(CELLS[cell], inputs, steps, outputs, config),
        f"{cell}_backward": lambda config: backward_into(CELLS[cell], gradients, steps, results, config),
    }
