"""The launcher of the recurrences: the kernels of recurrence.cuh for each cell, as `launch_heuristics` chooses them.

`lstm_forward`, `lstm_backward`, `rnn_forward` and `rnn_backward` are the contract's. They create the results and call
`forward_into` and `backward_into`, which serve both cells. Biases are added, and initial states read in the captions'
order, by the kernels, so that no further launch is needed. `gru_forward` and `gru_backward`, and those of the
attention LSTM, are the reference's.

``precision="bf16"`` permits less precise factors, and the recurrences do not use that: they run in the variants that
`launch_heuristics` chooses for float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import import_module
from typing import Any, NamedTuple

import numpy as np

from capgpu.kernels.contract import AttentionStates, Precision, States, check_precision
from capgpu.kernels.cuda import launch_heuristics
from capgpu.kernels.cuda.array_checks import NULL, check_device, contiguous, dtype_name, empty, indices
from capgpu.kernels.cuda.compile import CooperativeLaunchError
from capgpu.kernels.cuda.constants import COUNTER_STRIDE
from capgpu.kernels.cuda.launch_heuristics import LaunchConfig
from capgpu.kernels.cuda.workspace import workspace
from capgpu.kernels.half import in_float32
from capgpu.kernels.reference import attention as attention_reference
from capgpu.kernels.reference import recurrence as reference

__all__ = [
    "CELLS",
    "BackwardInputs",
    "BackwardOutputs",
    "Cell",
    "ForwardInputs",
    "ForwardOutputs",
    "Steps",
    "attention_lstm_backward",
    "attention_lstm_forward",
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
        As for `capgpu.kernels.reference.lstm_forward`; c0 is None for a cell without a state c.
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
    gates : array, shape (M, GH), or None
        Activated gates; None for a cell that does not save them, and where no backward pass follows.
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
        As for `capgpu.kernels.reference.lstm_backward`. `gates` are the hidden states for a cell that does not save its
        gates; dcell, cell and c0 are None for a cell without a state c.
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
        Gradient of the pre-activations.
    dh0 : array, shape (N, H)
        Gradient of the initial hidden state, zero for sequences without any step.
    dc0 : array, shape (N, H), or None
        The same for c; None for a cell without.
    """

    dgates: Any
    dh0: Any
    dc0: Any = None


def _lstm_reference_forward(inputs: ForwardInputs, batch_sizes: Any) -> States:
    projected, rows, h0, c0, Wh, bias, h0_bias, order = inputs
    return reference.lstm_forward(projected, rows, h0, c0, Wh, batch_sizes, bias=bias, h0_bias=h0_bias, order=order)


def _rnn_reference_forward(inputs: ForwardInputs, batch_sizes: Any) -> States:
    projected, rows, h0, _, Wh, bias, h0_bias, order = inputs
    return reference.rnn_forward(projected, rows, h0, Wh, batch_sizes, bias=bias, h0_bias=h0_bias, order=order)


def _lstm_reference_backward(inputs: BackwardInputs, batch_sizes: Any) -> tuple[Any, ...]:
    dhidden, dcell, gates, cell, c0, Wh, order = inputs
    return reference.lstm_backward(dhidden, dcell, gates, cell, c0, Wh, batch_sizes, order=order)


def _rnn_reference_backward(inputs: BackwardInputs, batch_sizes: Any) -> tuple[Any, ...]:
    return reference.rnn_backward(inputs.dhidden, inputs.gates, inputs.Wh, batch_sizes, order=inputs.order)


@dataclass(frozen=True)
class Cell:
    """A recurrent cell on the device; its kernels are in ``{name}.cu``.

    Attributes
    ----------
    name : str
        Its kernels' names begin with it.
    reference_forward, reference_backward : callable
        The passes in array code, where no kernel is launched.
    """

    name: str
    reference_forward: Callable[[ForwardInputs, Any], States]
    reference_backward: Callable[[BackwardInputs, Any], tuple[Any, ...]]


CELLS = {
    "lstm": Cell("lstm", _lstm_reference_forward, _lstm_reference_backward),
    "rnn": Cell("rnn", _rnn_reference_forward, _rnn_reference_backward),
}


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
    inputs = ForwardInputs(*_contiguous(projected, rows, h0, c0, Wh, bias, h0_bias, order))
    forward_into(CELLS["lstm"], inputs, steps, ForwardOutputs(hidden, cell, gates, previous))
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
    inputs = BackwardInputs(*_contiguous(dhidden, dcell, gates, cell, c0, Wh, order))
    backward_into(CELLS["lstm"], inputs, steps, BackwardOutputs(dgates, dh0, dc0))
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
    inputs = ForwardInputs(*_contiguous(projected, rows, h0, None, Wh, bias, h0_bias, order))
    forward_into(CELLS["rnn"], inputs, steps, ForwardOutputs(hidden, previous=previous))
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
    inputs = BackwardInputs(*_contiguous(dhidden, None, hidden, None, None, Wh, order))
    backward_into(CELLS["rnn"], inputs, steps, BackwardOutputs(dprojected, dh0))
    return dprojected, dh0


def attention_lstm_forward(
    projected: Any, rows: Any, A: Any, Wh: Any, Wattn: Any, batch_sizes: Any, **options: Any
) -> AttentionStates:
    """Run an attention LSTM over packed sequences; see `capgpu.kernels.reference.attention_lstm_forward`."""
    counts = np.array(Steps.of(batch_sizes).counts, np.int64)
    operation = in_float32(attention_reference.attention_lstm_forward)
    states: AttentionStates = operation(projected, rows, A, Wh, Wattn, counts, **options)
    return states


def attention_lstm_backward(
    dhidden: Any,
    gates: Any,
    cell: Any,
    previous: Any,
    attention: Any,
    A: Any,
    Wh: Any,
    Wattn: Any,
    batch_sizes: Any,
    **options: Any,
) -> tuple[Any, Any]:
    """Run its recurrence backward; see `capgpu.kernels.reference.attention_lstm_backward`."""
    counts = np.array(Steps.of(batch_sizes).counts, np.int64)
    operation = in_float32(attention_reference.attention_lstm_backward)
    dprojected, dA = operation(dhidden, gates, cell, previous, attention, A, Wh, Wattn, counts, **options)
    return dprojected, dA


def gru_forward(projected: Any, rows: Any, h0: Any, Wh: Any, batch_sizes: Any, **options: Any) -> States:
    """Run a GRU over packed sequences; see `capgpu.kernels.reference.gru_forward`."""
    counts = np.array(Steps.of(batch_sizes).counts, np.int64)
    states: States = in_float32(reference.gru_forward)(projected, rows, h0, Wh, counts, **options)
    return states


def gru_backward(
    dhidden: Any, gates: Any, previous: Any, Wh: Any, batch_sizes: Any, **options: Any
) -> tuple[Any, Any, Any]:
    """Run the GRU's recurrence backward; see `capgpu.kernels.reference.gru_backward`."""
    counts = np.array(Steps.of(batch_sizes).counts, np.int64)
    gradients: tuple[Any, Any, Any] = in_float32(reference.gru_backward)(
        dhidden, gates, previous, Wh, counts, **options
    )
    return gradients


def _states(steps: Steps, like: Any, *names: str) -> list[Any]:
    return [empty((sum(steps.counts), like.shape[1]), like.dtype, f"the {name}") for name in names]


def _initial_gradient(steps: Steps, like: Any, order: Any, name: str) -> Any:
    count = order.shape[0] if order is not None else steps.counts[0] if steps.counts else 0
    return empty((count, like.shape[1]), like.dtype, f"the gradient of {name}")


def _contiguous(*arrays: Any) -> list[Any]:
    return [
        None if array is None else indices(array) if array.dtype.kind in "iu" else contiguous(array) for array in arrays
    ]


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
        _launch_forward(name, config, like, steps, _pointers(*read, *written))

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
        _launch_backward(name, config, like, steps, _pointers(*read, *outputs))

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


def _launch_forward(name: str, config: LaunchConfig, like: Any, steps: Steps, pointers: Sequence[Any]) -> None:
    dtype, count = dtype_name(like.dtype), np.int32(len(steps.counts))
    kernel, size = config.kernel(name, dtype), np.int32(like.shape[1])
    if config.algorithm == "persistent":
        with _barrier_counters(config) as counters:
            numbers = (size, count, np.int32(0), count, np.int32(0))
            kernel(config.grid, config.block, (*pointers, counters, *numbers), config.shared)
        return
    start = 0
    for step, active in enumerate(steps.counts):
        grid = launch_heuristics.step_grid(name, dtype, like.shape[1], active)
        numbers = (size, count, np.int32(step), np.int32(1), np.int32(start))
        kernel(grid, config.block, (*pointers, NULL, *numbers), config.shared)
        start += active


def _launch_backward(name: str, config: LaunchConfig, like: Any, steps: Steps, pointers: Sequence[Any]) -> None:
    dtype, count = dtype_name(like.dtype), np.int32(len(steps.counts))
    kernel, size = config.kernel(name, dtype), np.int32(like.shape[1])
    stop, last, sequences = sum(steps.counts), len(steps.counts) - 1, np.int32(like.shape[0])
    if config.algorithm == "persistent":
        with _barrier_counters(config) as counters:
            numbers = (size, count, np.int32(last), np.int32(last + 2), np.int32(stop), sequences)
            kernel(config.grid, config.block, (*pointers, counters, *numbers), config.shared)
        return
    # after step 0 comes step -1: the gradients of the initial states
    for step in range(last, -2, -1):
        active = steps.counts[max(step, 0)]
        grid = launch_heuristics.step_grid(name, dtype, like.shape[1], active)
        numbers = (size, count, np.int32(step), np.int32(1), np.int32(stop), sequences)
        kernel(grid, config.block, (*pointers, NULL, *numbers), config.shared)
        stop -= active


@contextmanager
def _barrier_counters(config: LaunchConfig) -> Iterator[Any]:
    """Yield the counters of the groups' barriers; discard them if the launch fails: they may have any value then."""
    try:
        yield workspace().counters(config.groups * COUNTER_STRIDE)
    except BaseException:
        workspace().discard_counters()
        raise


def _pointers(*arrays: Any) -> list[Any]:
    return [NULL if array is None else array for array in arrays]
