"""The launcher of the recurrences: lstm.cu and rnn.cu, in the variant that `launch_heuristics` chooses.

`lstm_forward`, `lstm_backward`, `rnn_forward` and `rnn_backward` are the contract's. The ``..._into`` functions beside
them write into memory that the caller keeps. Biases are added, and initial states taken in the captions' order, by the
kernels, so that nothing is launched for that.

``precision="bf16"`` permits less precise factors, and the recurrences do not use that: they run in the variants that
`launch_heuristics` chooses for float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from importlib import import_module
from typing import Any, ParamSpec

import numpy as np

from capgpu.kernels.contract import Precision, States, check_precision
from capgpu.kernels.cuda import launch_heuristics
from capgpu.kernels.cuda.array_checks import NULL, check_device, contiguous, dtype_name, empty, indices
from capgpu.kernels.cuda.compile import CooperativeLaunchError, Kernel
from capgpu.kernels.cuda.constants import COUNTER_STRIDE
from capgpu.kernels.cuda.workspace import workspace
from capgpu.kernels.reference import recurrence as reference

__all__ = [
    "Steps",
    "lstm_backward",
    "lstm_backward_into",
    "lstm_forward",
    "lstm_forward_into",
    "rnn_backward",
    "rnn_backward_into",
    "rnn_forward",
    "rnn_forward_into",
]

_Arguments = ParamSpec("_Arguments")


@dataclass(frozen=True)
class Steps:
    """The steps of a packed batch, on both sides.

    Attributes
    ----------
    counts : tuple of int
        Rows of each step, never rising.
    sizes : array of int32, shape (T,)
        The same on the device.
    """

    counts: tuple[int, ...]
    sizes: Any

    @staticmethod
    def of(batch_sizes: Any) -> Steps:
        """Bring host batch sizes to the device, unless they are there."""
        if isinstance(batch_sizes, Steps):
            return batch_sizes
        sizes = import_module("cupy").asarray(np.ascontiguousarray(batch_sizes, dtype=np.int32))
        return Steps(tuple(batch_sizes.tolist()), sizes)


def lstm_forward(
    projected: Any,
    rows: Any,
    h0: Any,
    c0: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    bias: Any = None,
    h0_bias: Any = None,
    order: Any = None,
    precision: Precision = "float32",
) -> States:
    """Run an LSTM over packed sequences; see `capgpu.kernels.reference.lstm_forward`."""
    check_precision(precision, Wh.dtype)
    check_device(projected=projected, rows=rows, h0=h0, c0=c0, Wh=Wh, bias=bias, h0_bias=h0_bias, order=order)
    steps, size = Steps.of(batch_sizes), h0.shape[1]
    hidden, cell, previous = _states(steps, h0, "hidden states", "cell states", "previous states")
    gates = empty((sum(steps.counts), 4 * size), h0.dtype, "the gates")
    projected, h0, c0, Wh = _contiguous(projected, h0, c0, Wh)
    options = _options(bias, h0_bias, order)
    lstm_forward_into(projected, _indices(rows), h0, c0, Wh, steps, hidden, cell, gates, previous=previous, **options)
    return States(hidden, cell, gates, previous)


def lstm_backward(
    dhidden: Any,
    dcell: Any,
    gates: Any,
    cell: Any,
    c0: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    order: Any = None,
    precision: Precision = "float32",
) -> tuple[Any, Any, Any]:
    """Run the LSTM's recurrence backward; see `capgpu.kernels.reference.lstm_backward`."""
    check_precision(precision, Wh.dtype)
    check_device(dhidden=dhidden, dcell=dcell, gates=gates, cell=cell, c0=c0, Wh=Wh, order=order)
    steps = Steps.of(batch_sizes)
    dgates = empty(gates.shape, gates.dtype, "the gradient of the gates")
    dh0, dc0 = (_initial_gradient(steps, cell, order, name) for name in ("h0", "c0"))
    dhidden, dcell, gates, cell, c0, Wh = _contiguous(dhidden, dcell, gates, cell, c0, Wh)
    lstm_backward_into(dhidden, dcell, gates, cell, c0, Wh, steps, dgates, dh0, dc0, order=_indices(order))
    return dgates, dh0, dc0


def rnn_forward(
    projected: Any,
    rows: Any,
    h0: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    bias: Any = None,
    h0_bias: Any = None,
    order: Any = None,
    precision: Precision = "float32",
) -> States:
    """Run a vanilla RNN over packed sequences; see `capgpu.kernels.reference.rnn_forward`."""
    check_precision(precision, Wh.dtype)
    check_device(projected=projected, rows=rows, h0=h0, Wh=Wh, bias=bias, h0_bias=h0_bias, order=order)
    steps = Steps.of(batch_sizes)
    hidden, previous = _states(steps, h0, "hidden states", "previous states")
    projected, h0, Wh = _contiguous(projected, h0, Wh)
    options = _options(bias, h0_bias, order)
    rnn_forward_into(projected, _indices(rows), h0, Wh, steps, hidden, previous=previous, **options)
    return States(hidden, None, None, previous)


def rnn_backward(
    dhidden: Any,
    hidden: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    order: Any = None,
    precision: Precision = "float32",
) -> tuple[Any, Any]:
    """Run the RNN's recurrence backward; see `capgpu.kernels.reference.rnn_backward`."""
    check_precision(precision, Wh.dtype)
    check_device(dhidden=dhidden, hidden=hidden, Wh=Wh, order=order)
    steps = Steps.of(batch_sizes)
    dprojected = empty(hidden.shape, hidden.dtype, "the gradient of the pre-activations")
    dh0 = _initial_gradient(steps, hidden, order, "h0")
    dhidden, hidden, Wh = _contiguous(dhidden, hidden, Wh)
    rnn_backward_into(dhidden, hidden, Wh, steps, dprojected, dh0, order=_indices(order))
    return dprojected, dh0


def _states(steps: Steps, like: Any, *names: str) -> list[Any]:
    return [empty((sum(steps.counts), like.shape[1]), like.dtype, f"the {name}") for name in names]


def _options(bias: Any, h0_bias: Any, order: Any) -> dict[str, Any]:
    bias, h0_bias = _contiguous(bias, h0_bias)
    return {"bias": bias, "h0_bias": h0_bias, "order": _indices(order)}


def _initial_gradient(steps: Steps, like: Any, order: Any, name: str) -> Any:
    count = order.shape[0] if order is not None else steps.counts[0] if steps.counts else 0
    return empty((count, like.shape[1]), like.dtype, f"the gradient of {name}")


def _without_cooperative_launches(run: Callable[_Arguments, None]) -> Callable[_Arguments, None]:
    """Wrap a pass: it runs once more, in another tier, where the driver refuses the cooperative launch."""

    @wraps(run)
    def run_again(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> None:
        try:
            run(*args, **kwargs)
        except CooperativeLaunchError as error:
            if kwargs.get("plan") is not None:
                raise
            launch_heuristics.forget()
            warnings.warn(
                f"{error}. This process computes the recurrences with one launch a step on this device from now on, "
                "which is slower.",
                RuntimeWarning,
                stacklevel=2,
            )
            run(*args, **kwargs)

    return run_again


@_without_cooperative_launches
def lstm_forward_into(
    projected: Any,
    rows: Any,
    h0: Any,
    c0: Any,
    Wh: Any,
    steps: Steps,
    hidden: Any,
    cell: Any,
    gates: Any,
    *,
    bias: Any = None,
    h0_bias: Any = None,
    order: Any = None,
    previous: Any = None,
    plan: launch_heuristics.LaunchConfig | None = None,
) -> None:
    """Run an LSTM over packed sequences into given arrays.

    All arrays, those that are read as well, must be C-contiguous: a training step has none that are not, and looking
    at each of them at every launch takes the host longer than the launch. Indices are of int32.

    Parameters
    ----------
    projected, rows, h0, c0, Wh
        As for `lstm_forward`; with `order`, h0 and c0 have N rows, one a caption.
    steps : Steps
        Rows of each step.
    hidden, cell : array, shape (M, H)
        Written: states after each step.
    gates : array, shape (M, 4H), or None
        Written where given: activated gates.
    bias : array, shape (4H,), optional
        Added to the pre-activations.
    h0_bias : array, shape (H,), optional
        Added to h0.
    order : array of int32, shape (N,), optional
        Row of h0 and c0 for each sequence.
    previous : array, shape (M, H), optional
        Written: hidden state before each packed row.
    plan : LaunchConfig, optional
        Tier to take; chosen where None, and chosen anew, with a warning, where the driver refuses the persistent one.

    Raises
    ------
    CooperativeLaunchError
        Where the driver refuses the plan that was given.
    """
    if not steps.counts:
        return
    plan = plan or _plan("lstm_forward", h0, steps)
    if plan.tier == "matmul":
        h0, c0 = _initial(h0, order, steps, h0_bias), _initial(c0, order, steps)
        hidden[...], cell[...], activated, _ = reference.lstm_forward(
            projected, rows, h0, c0, Wh, np.array(steps.counts), bias=bias
        )
        if gates is not None:
            gates[...] = activated
        _write_previous(previous, hidden, h0, steps)
        return
    inputs = _or_null(projected, rows, bias, h0, h0_bias, c0, order, Wh, steps.sizes)
    arguments = (*inputs, *_or_null(hidden, previous, cell, gates), _barriers(plan), np.int32(h0.shape[1]))
    _forward("lstm_forward", plan, h0, steps, arguments)


@_without_cooperative_launches
def rnn_forward_into(
    projected: Any,
    rows: Any,
    h0: Any,
    Wh: Any,
    steps: Steps,
    hidden: Any,
    *,
    bias: Any = None,
    h0_bias: Any = None,
    order: Any = None,
    previous: Any = None,
    plan: launch_heuristics.LaunchConfig | None = None,
) -> None:
    """Run a vanilla RNN over packed sequences into given arrays; parameters as for `lstm_forward_into`."""
    if not steps.counts:
        return
    plan = plan or _plan("rnn_forward", h0, steps)
    if plan.tier == "matmul":
        h0 = _initial(h0, order, steps, h0_bias)
        hidden[...] = reference.rnn_forward(projected, rows, h0, Wh, np.array(steps.counts), bias=bias).hidden
        _write_previous(previous, hidden, h0, steps)
        return
    inputs = _or_null(projected, rows, bias, h0, h0_bias, order, Wh, steps.sizes)
    arguments = (*inputs, *_or_null(hidden, previous), _barriers(plan), np.int32(h0.shape[1]))
    _forward("rnn_forward", plan, h0, steps, arguments)


@_without_cooperative_launches
def lstm_backward_into(
    dhidden: Any,
    dcell: Any,
    gates: Any,
    cell: Any,
    c0: Any,
    Wh: Any,
    steps: Steps,
    dgates: Any,
    dh0: Any,
    dc0: Any,
    *,
    order: Any = None,
    plan: launch_heuristics.LaunchConfig | None = None,
) -> None:
    """Run the LSTM's recurrence backward into given arrays, C-contiguous as for `lstm_forward_into`.

    Parameters
    ----------
    dhidden, dcell, gates, cell, c0, Wh
        As for `lstm_backward`; with `order`, c0 has N rows, one a caption.
    steps : Steps
        Rows of each step.
    dgates : array, shape (M, 4H)
        Written: gradient of the pre-activations.
    dh0, dc0 : array, shape (N, H)
        Written: gradients of the initial states, zero for sequences without any step.
    order : array of int32, shape (N,), optional
        Row of c0, dh0 and dc0 for each sequence.
    plan : LaunchConfig, optional
        Tier to take; chosen where None, and chosen anew, with a warning, where the driver refuses the persistent one.

    Raises
    ------
    CooperativeLaunchError
        Where the driver refuses the plan that was given.
    """
    if not steps.counts:
        dh0.fill(0)
        dc0.fill(0)
        return
    plan = plan or _plan("lstm_backward", dh0, steps)
    if plan.tier == "matmul":
        c0 = _initial(c0, order, steps)
        dgates[...], dh, dc = reference.lstm_backward(dhidden, dcell, gates, cell, c0, Wh, np.array(steps.counts))
        _write_initial(dh0, dh, order)
        _write_initial(dc0, dc, order)
        return
    inputs = _or_null(dhidden, dcell, gates, cell, c0, order, Wh, steps.sizes)
    arguments = (*inputs, dgates, dh0, dc0, _barriers(plan), np.int32(dh0.shape[1]))
    _backward("lstm_backward", plan, dh0, steps, arguments)


@_without_cooperative_launches
def rnn_backward_into(
    dhidden: Any,
    hidden: Any,
    Wh: Any,
    steps: Steps,
    dprojected: Any,
    dh0: Any,
    *,
    order: Any = None,
    plan: launch_heuristics.LaunchConfig | None = None,
) -> None:
    """Run the RNN's recurrence backward into given arrays; parameters as for `lstm_backward_into`."""
    if not steps.counts:
        dh0.fill(0)
        return
    plan = plan or _plan("rnn_backward", dh0, steps)
    if plan.tier == "matmul":
        dprojected[...], dh = reference.rnn_backward(dhidden, hidden, Wh, np.array(steps.counts))
        _write_initial(dh0, dh, order)
        return
    inputs = _or_null(dhidden, hidden, order, Wh, steps.sizes)
    arguments = (*inputs, dprojected, dh0, _barriers(plan), np.int32(dh0.shape[1]))
    _backward("rnn_backward", plan, dh0, steps, arguments)


def _plan(name: str, like: Any, steps: Steps) -> launch_heuristics.LaunchConfig:
    return launch_heuristics.plan(name, dtype_name(like.dtype), like.shape[1], steps.counts[0], len(steps.counts))


def _forward(
    name: str, plan: launch_heuristics.LaunchConfig, like: Any, steps: Steps, arguments: Sequence[Any]
) -> None:
    dtype, count = dtype_name(like.dtype), np.int32(len(steps.counts))
    kernel = plan.kernel(name, dtype)
    if plan.tier == "persistent":
        _persistent(kernel, plan, (*arguments, count, np.int32(0), count, np.int32(0)))
        return
    start = 0
    for step, alive in enumerate(steps.counts):
        grid = launch_heuristics.step_grid(name, dtype, like.shape[1], alive)
        kernel(grid, plan.block, (*arguments, count, np.int32(step), np.int32(1), np.int32(start)), plan.shared)
        start += alive


def _backward(
    name: str, plan: launch_heuristics.LaunchConfig, like: Any, steps: Steps, arguments: Sequence[Any]
) -> None:
    dtype, count = dtype_name(like.dtype), np.int32(len(steps.counts))
    kernel = plan.kernel(name, dtype)
    stop, last, sequences = sum(steps.counts), len(steps.counts) - 1, np.int32(like.shape[0])
    if plan.tier == "persistent":
        place = (np.int32(last), np.int32(last + 2), np.int32(stop))
        _persistent(kernel, plan, (*arguments, count, *place, sequences))
        return
    # after step 0 comes step -1: what it sends back to the initial states
    for step in range(last, -2, -1):
        alive = steps.counts[max(step, 0)]
        grid = launch_heuristics.step_grid(name, dtype, like.shape[1], alive)
        place = (np.int32(step), np.int32(1), np.int32(stop))
        kernel(grid, plan.block, (*arguments, count, *place, sequences), plan.shared)
        stop -= alive


def _persistent(kernel: Kernel, plan: launch_heuristics.LaunchConfig, arguments: Sequence[Any]) -> None:
    try:
        kernel(plan.grid, plan.block, arguments, plan.shared)
    except BaseException:
        workspace().discard_counters()
        raise


def _contiguous(*arrays: Any) -> list[Any]:
    return [None if a is None else contiguous(a) for a in arrays]


def _or_null(*arrays: Any) -> list[Any]:
    return [NULL if a is None else a for a in arrays]


def _indices(array: Any) -> Any:
    return None if array is None else indices(array)


def _barriers(plan: launch_heuristics.LaunchConfig) -> Any:
    """Return the counters of the barriers, for the tier that has any."""
    if plan.tier != "persistent":
        return NULL
    return workspace().counters(plan.groups * COUNTER_STRIDE)


# --- what the last tier does with the options of the others ---------------------------------------


def _initial(state: Any, order: Any, steps: Steps, bias: Any = None) -> Any:
    if state is None:
        return None
    state = state[: steps.counts[0]] if order is None else state[order[: steps.counts[0]]]
    return state if bias is None else state + bias


def _write_initial(to: Any, gradient: Any, order: Any) -> None:
    to.fill(0)
    to[slice(gradient.shape[0]) if order is None else order[: gradient.shape[0]]] = gradient


def _write_previous(previous: Any, hidden: Any, h0: Any, steps: Steps) -> None:
    if previous is None:
        return
    previous[: h0.shape[0]] = h0
    start = 0
    for before, count in zip(steps.counts, steps.counts[1:], strict=False):
        previous[start + before : start + before + count] = hidden[start : start + count]
        start += before
