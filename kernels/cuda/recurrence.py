"""The launcher of the recurrences: the kernels of recurrence.cuh for each cell, as `launch_heuristics` chooses them.

`forward_into` and `backward_into` serve every cell. Biases are added, and initial states read in the captions' order,
by the kernels, so that no further launch is needed.

``precision="bf16"`` permits less precise factors, and the recurrences do not use that: they run in the variants that
`launch_heuristics` chooses for float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from capgpu.kernels import cells
from capgpu.kernels.cells import CellShape, RecurrenceBackward, RecurrenceForward, RecurrenceGradients
from capgpu.kernels.contract import Precision, States, check_precision
from capgpu.kernels.cuda import launch_heuristics
from capgpu.kernels.cuda.array_checks import NULL, check_device, dtype_name, empty, operand, pointers
from capgpu.kernels.cuda.compile import CooperativeLaunchError
from capgpu.kernels.cuda.constants import COUNTER_STRIDE
from capgpu.kernels.cuda.launch_heuristics import LaunchConfig
from capgpu.kernels.cuda.workspace import workspace
from capgpu.kernels.reference import KERNELS as REFERENCE

__all__ = [
    "CELLS",
    "BackwardInputs",
    "BackwardOutputs",
    "Cell",
    "ForwardInputs",
    "ForwardOutputs",
    "Steps",
    "backward_into",
    "forward_into",
    "gru_backward",
    "gru_forward",
    "lstm_backward",
    "lstm_forward",
    "rnn_backward",
    "rnn_forward",
]


@dataclass(frozen=True)
class Steps:
    """The steps of a packed batch, on the host and on the device.

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
        """Copy host batch sizes to the device; return an instance of `Steps` as it is."""
        if isinstance(batch_sizes, Steps):
            return batch_sizes
        sizes = import_module("cupy").asarray(np.ascontiguousarray(batch_sizes, dtype=np.int32))
        return Steps(tuple(batch_sizes.tolist()), sizes)


class ForwardInputs(NamedTuple):
    """What a forward pass reads; C-contiguous arrays, indices of int32.

    Attributes
    ----------
    projected, rows, h0, c0, Wh, bias, h0_bias, order
        As for `capgpu.kernels.cells.RecurrenceForward`; c0 is None for a cell without a state c.
    """

    projected: Any
    rows: Any
    h0: Any
    c0: Any
    Wh: Any
    bias: Any = None
    h0_bias: Any = None
    order: Any = None


class ForwardOutputs(NamedTuple):
    """What a forward pass writes; C-contiguous arrays.

    Attributes
    ----------
    hidden : array, shape (M, H)
        Hidden states.
    cell : array, shape (M, H), or None
        States c; None for a cell without.
    gates : array, shape (M, n_saved * H), or None
        Activated gates, and what else is saved; None for a cell that saves nothing, and where no backward pass follows.
    previous : array, shape (M, H), or None
        Hidden state before each packed row.
    """

    hidden: Any
    cell: Any = None
    gates: Any = None
    previous: Any = None


class BackwardInputs(NamedTuple):
    """What a backward pass reads; C-contiguous arrays, indices of int32.

    Attributes
    ----------
    dhidden, dcell, gates, cell, c0, Wh, order
        As for `capgpu.kernels.cells.RecurrenceBackward`. `gates` are the hidden states for a cell that does not save
        its gates; dcell, cell and c0 are None for a cell without a state c, except that `cell` is the hidden state
        before each packed row for one that saves its gates, such as the GRU.
    """

    dhidden: Any
    dcell: Any
    gates: Any
    cell: Any
    c0: Any
    Wh: Any
    order: Any = None


class BackwardOutputs(NamedTuple):
    """What a backward pass writes; C-contiguous arrays.

    Attributes
    ----------
    dgates : array, shape (M, GH)
        Gradient of the pre-activations, or of their recurrent parts where those differ.
    dh0 : array, shape (N, H)
        Gradient of the initial hidden state, zero for sequences without any step.
    dc0 : array, shape (N, H), or None
        The same for c; None for a cell without.
    dinputs : array, shape (M, GH), or None
        Gradient of the pre-activations' parts from the inputs; None where it is `dgates`.
    """

    dgates: Any
    dh0: Any
    dc0: Any = None
    dinputs: Any = None


@dataclass(frozen=True)
class Cell:
    """A recurrent cell on the device; its kernels are in ``{name}.cu``.

    Attributes
    ----------
    name : str
        Its kernels' names begin with it.
    shape : CellShape
        Its gates, biases and saved numbers.
    """

    name: str
    shape: CellShape

    def reference_forward(self, inputs: ForwardInputs, batch_sizes: Any) -> States:
        """Run the forward pass in array code, where no kernel is launched."""
        projected, rows, h0, c0, Wh, bias, h0_bias, order = inputs
        forward: RecurrenceForward = getattr(REFERENCE, f"{self.name}_forward")
        return forward(projected, rows, h0, c0, Wh, batch_sizes, bias=bias, h0_bias=h0_bias, order=order)

    def reference_backward(self, inputs: BackwardInputs, batch_sizes: Any) -> BackwardOutputs:
        """Run the backward pass in array code, where no kernel is launched."""
        dhidden, dcell, gates, states, c0, Wh, order = inputs
        hidden, cell, previous = gates, states, states  # what `BackwardInputs` has in one place
        backward: RecurrenceBackward = getattr(REFERENCE, f"{self.name}_backward")
        if not self.shape.has_state:
            cell = None
        gradients = backward(dhidden, dcell, hidden, cell, gates, previous, c0, Wh, batch_sizes, order=order)
        dprojected, drecurrent, dh0, dc0 = gradients
        return BackwardOutputs(dprojected if drecurrent is None else drecurrent, dh0, dc0, dprojected)


CELLS = {name: Cell(name, shape) for name, shape in cells.CELLS.items()}


def operations(name: str) -> tuple[RecurrenceForward, RecurrenceBackward]:
    """Return the two operations of a cell, which create the results and call `forward_into` and `backward_into`."""
    return partial(_run_forward, CELLS[name]), partial(_run_backward, CELLS[name])


def _run_forward(
    kind: Cell,
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
    check_precision(precision, Wh.dtype)
    check_device(projected=projected, rows=rows, h0=h0, c0=c0, Wh=Wh, bias=bias, h0_bias=h0_bias, order=order)
    steps, shape = Steps.of(batch_sizes), kind.shape
    M, H = sum(steps.counts), h0.shape[1]
    hidden = empty((M, H), h0.dtype, "the hidden states")
    cell = empty((M, H), h0.dtype, "the cell states") if shape.has_state else None
    previous = empty((M, H), h0.dtype, "the previous states")
    gates = empty((M, shape.n_saved * H), h0.dtype, "the gates") if shape.n_saved else None
    c0 = c0 if shape.has_state else None
    inputs = ForwardInputs(*map(operand, (projected, rows, h0, c0, Wh, bias, h0_bias, order)))
    forward_into(kind, inputs, steps, ForwardOutputs(hidden, cell, gates, previous))
    return States(hidden, cell, gates, previous)


def _run_backward(
    kind: Cell,
    dhidden: Any,
    dcell: Any,
    hidden: Any,
    cell: Any,
    gates: Any,
    previous: Any,
    c0: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    order: Any = None,
    precision: Precision = "float32",
) -> RecurrenceGradients:
    check_precision(precision, Wh.dtype)
    check_device(dhidden=dhidden, dcell=dcell, hidden=hidden, cell=cell, gates=gates, previous=previous)
    check_device(c0=c0, Wh=Wh, order=order)
    steps, shape, (M, G) = Steps.of(batch_sizes), kind.shape, (dhidden.shape[0], Wh.shape[1])
    dgates = empty((M, G), dhidden.dtype, "the gradient of the pre-activations")
    dinputs = empty((M, G), dhidden.dtype, "the gradient of the inputs' sums") if shape.splits_gradient else None
    dh0 = _initial_gradient(steps, dhidden, order, "h0")
    dc0 = _initial_gradient(steps, dhidden, order, "c0") if shape.has_state else None
    gates = gates if shape.n_saved else hidden
    states = cell if shape.has_state else previous if shape.n_saved else None
    dcell, c0 = (dcell, c0) if shape.has_state else (None, None)
    inputs = BackwardInputs(*map(operand, (dhidden, dcell, gates, states, c0, Wh, order)))
    backward_into(kind, inputs, steps, BackwardOutputs(dgates, dh0, dc0, dinputs))
    dprojected, drecurrent = (dgates, None) if dinputs is None else (dinputs, dgates)
    return RecurrenceGradients(dprojected, drecurrent, dh0, dc0)


lstm_forward, lstm_backward = operations("lstm")
gru_forward, gru_backward = operations("gru")
rnn_forward, rnn_backward = operations("rnn")


def _initial_gradient(steps: Steps, like: Any, order: Any, name: str) -> Any:
    count = order.shape[0] if order is not None else steps.counts[0] if steps.counts else 0
    return empty((count, like.shape[1]), like.dtype, f"the gradient of {name}")


def forward_into(
    cell: Cell, inputs: ForwardInputs, steps: Steps, outputs: ForwardOutputs, config: LaunchConfig | None = None
) -> None:
    """Run a recurrence over packed sequences into given arrays.

    The arrays are not checked: they must be C-contiguous, and indices of int32. Checking every array would take the
    host longer than the launch.

    Parameters
    ----------
    cell : Cell
        One of `CELLS`.
    inputs : ForwardInputs
        Read.
    steps : Steps
        Rows of each step.
    outputs : ForwardOutputs
        Written.
    config : LaunchConfig, optional
        Chosen where None, and chosen again, with a warning, where the driver refuses the cooperative launch.

    Raises
    ------
    CooperativeLaunchError
        Where the driver refuses the given configuration.
    """
    if not steps.counts:
        return
    name, like = f"{cell.name}_forward", inputs.h0

    def launch(config: LaunchConfig) -> None:
        if config.algorithm == "matmul":
            states = cell.reference_forward(inputs, np.array(steps.counts))
            _copy_results(outputs, (states.hidden, states.cell, states.gates, states.previous))
            return
        projected, rows, h0, c0, Wh, bias, h0_bias, order = inputs
        read = (projected, rows, bias, h0, h0_bias, c0, order, Wh, steps.sizes)
        written = (outputs.hidden, outputs.previous, outputs.cell, outputs.gates)
        _launch_forward(name, config, like, steps, pointers(*read, *written))

    _launch_or_fall_back(name, like, steps, config, launch)


def backward_into(
    cell: Cell, inputs: BackwardInputs, steps: Steps, outputs: BackwardOutputs, config: LaunchConfig | None = None
) -> None:
    """Run a recurrence backward into given arrays.

    Parameters
    ----------
    cell, steps, config
        As for `forward_into`.
    inputs : BackwardInputs
        Read; not checked, as for `forward_into`.
    outputs : BackwardOutputs
        Written.

    Raises
    ------
    CooperativeLaunchError
        Where the driver refuses the given configuration.
    """
    if not steps.counts:
        for gradient in (outputs.dh0, outputs.dc0):
            if gradient is not None:
                gradient.fill(0)
        return
    name, like = f"{cell.name}_backward", outputs.dh0

    def launch(config: LaunchConfig) -> None:
        if config.algorithm == "matmul":
            _copy_results(outputs, cell.reference_backward(inputs, np.array(steps.counts)))
            return
        dhidden, dcell, gates, states, c0, Wh, order = inputs
        read = (dhidden, dcell, gates, states, c0, order, Wh, steps.sizes)
        _launch_backward(name, config, like, steps, pointers(*read, *outputs))

    _launch_or_fall_back(name, like, steps, config, launch)


def _copy_results(outputs: Sequence[Any], results: Sequence[Any]) -> None:
    """Copy the reference's results to the arrays that were given."""
    for output, result in zip(outputs, results, strict=False):
        if output is not None:
            output[...] = result


def _launch_or_fall_back(
    name: str,
    like: Any,
    steps: Steps,
    config: LaunchConfig | None,
    launch: Callable[[LaunchConfig], None],
) -> None:
    """Launch in the given or the chosen configuration; choose again if the driver refuses a cooperative launch."""
    if config is not None:
        launch(config)
        return
    try:
        launch(_choose(name, like, steps))
    except CooperativeLaunchError as error:
        launch_heuristics.forget()
        warnings.warn(
            f"{error}. This process computes the recurrences with one launch a step on this device from now on, "
            "which is slower.",
            RuntimeWarning,
            stacklevel=4,
        )
        launch(_choose(name, like, steps))


def _choose(name: str, like: Any, steps: Steps) -> LaunchConfig:
    return launch_heuristics.choose(name, dtype_name(like.dtype), like.shape[1], steps.counts[0], len(steps.counts))


def _launch_forward(name: str, config: LaunchConfig, like: Any, steps: Steps, arrays: Sequence[Any]) -> None:
    dtype, count = dtype_name(like.dtype), np.int32(len(steps.counts))
    kernel, size = config.kernel(name, dtype), np.int32(like.shape[1])
    if config.algorithm == "persistent":
        with _barrier_counters(config) as counters:
            numbers = (size, count, np.int32(0), count, np.int32(0))
            kernel(config.grid, config.block, (*arrays, counters, *numbers), config.shared)
        return
    start = 0
    for step, active in enumerate(steps.counts):
        grid = launch_heuristics.step_grid(name, dtype, like.shape[1], active)
        numbers = (size, count, np.int32(step), np.int32(1), np.int32(start))
        kernel(grid, config.block, (*arrays, NULL, *numbers), config.shared)
        start += active


def _launch_backward(name: str, config: LaunchConfig, like: Any, steps: Steps, arrays: Sequence[Any]) -> None:
    dtype, count = dtype_name(like.dtype), np.int32(len(steps.counts))
    kernel, size = config.kernel(name, dtype), np.int32(like.shape[1])
    stop, last, sequences = sum(steps.counts), len(steps.counts) - 1, np.int32(like.shape[0])
    if config.algorithm == "persistent":
        with _barrier_counters(config) as counters:
            numbers = (size, count, np.int32(last), np.int32(last + 2), np.int32(stop), sequences)
            kernel(config.grid, config.block, (*arrays, counters, *numbers), config.shared)
        return
    # after step 0 comes step -1: the gradients of the initial states
    for step in range(last, -2, -1):
        active = steps.counts[max(step, 0)]
        grid = launch_heuristics.step_grid(name, dtype, like.shape[1], active)
        numbers = (size, count, np.int32(step), np.int32(1), np.int32(stop), sequences)
        kernel(grid, config.block, (*arrays, NULL, *numbers), config.shared)
        stop -= active


@contextmanager
def _barrier_counters(config: LaunchConfig) -> Iterator[Any]:
    """Yield the counters of the groups' barriers; discard them if the launch fails: they may have any value then."""
    try:
        yield workspace().counters(config.groups * COUNTER_STRIDE)
    except BaseException:
        workspace().discard_counters()
        raise
