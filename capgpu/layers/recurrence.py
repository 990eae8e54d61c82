"""A recurrent layer over packed sequences, whatever its cell: projection of the inputs, recurrence, and back.

    a = x Wx + b + h Wh,  then the cell's pointwise mathematics (`capgpu.kernels.reference.recurrence`)

A cell is a `Cell`, defined in its module (such as `capgpu.layers.gru`) beside its batch-first functions, which are
views of the functions here (`capgpu.layers.batch_first`); `capgpu.layers.cells` lists the cells. The captioner is built
on this module (`capgpu.captioner`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from capgpu.backend import Array
from capgpu.kernels import AttentionStates, RowGroups, States, kernels_for
from capgpu.kernels.cells import CellShape, RecurrenceBackward, RecurrenceForward, RecurrenceGradients

if TYPE_CHECKING:
    from capgpu.kernels.reference import Kernels

__all__ = [
    "Cell",
    "Recurrence",
    "backward_through_time",
    "input_gradients",
    "recurrent_backward",
    "recurrent_forward",
    "recurrent_weights_gradient",
]


@dataclass(frozen=True)
class Cell:
    """A recurrent cell: what distinguishes it, for all code that serves every cell.

    Attributes
    ----------
    name : str
        Its kernels are the operations ``{name}_forward`` and ``{name}_backward``.
    shape : CellShape
        Its gates, biases and states.
    attends : bool
        Whether it starts from a grid of projected cells, and reads them at each step through weights Wattn.
    """

    name: str
    shape: CellShape
    attends: bool = False


class Recurrence(NamedTuple):
    """What a backward pass reads: the arguments of `recurrent_forward` and its states."""

    cell: Cell
    kernels: Kernels
    x: Array
    rows: Array | None
    groups: RowGroups | None
    h0: Array
    c0: Array | None
    Wx: Array
    Wh: Array
    Wattn: Array | None
    b: Array
    batch_sizes: Any
    order: Array | None
    states: States | AttentionStates


def recurrent_forward(
    cell: Cell,
    x: Array,
    h0: Array,
    c0: Array | None,
    Wx: Array,
    Wh: Array,
    b: Array,
    batch_sizes: Any,
    *,
    rows: Array | None = None,
    groups: RowGroups | None = None,
    h0_bias: Array | None = None,
    order: Array | None = None,
    Wattn: Array | None = None,
    kernels: Kernels | None = None,
) -> Recurrence:
    """Run a recurrent layer over packed sequences.

    Parameters
    ----------
    cell : Cell
        Its cell.
    x : array, shape (M, D), or (U, D) with `rows`
        Inputs.
    h0 : array, shape (batch_sizes[0], H), or (N, H) with `order`
        Initial hidden states. Of a cell that attends: projected cells, (N, L, H), whose mean is both initial states.
    c0 : array, shaped like `h0`, or None
        Initial cell states; None is zero.
    Wx, Wh, b : array, shape (D, G), (H, G), (B,)
        Input weights, recurrent weights, biases; G = ``n_gates * H``, B = ``n_biases * H``.
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Rows of each step; or what `capgpu.kernels.CaptionBatch` has in its place.
    rows : array of int, shape (M,), optional
        Row of `x` for each packed row: an input that occurs often is projected once.
    groups : RowGroups, optional
        The packed rows grouped by `rows`, where that is known.
    h0_bias : array, shape (H,), optional
        Added to `h0`.
    order : array of int, shape (N,), optional
        Row of `h0` and `c0` for each sequence.
    Wattn : array, shape (H, G), optional
        Weights of the weighted sums of cells, for a cell that attends.
    kernels : Kernels, optional
        What computes; by default what serves `x`.

    Returns
    -------
    Recurrence
        For `recurrent_backward`; its ``states.hidden`` (M, H) is the layer's result.
    """
    kernels = kernels or kernels_for(x)
    projected = kernels.matmul(x, Wx)
    states: States | AttentionStates
    if cell.attends:
        states = kernels.attention_lstm_forward(projected, rows, h0, Wh, Wattn, batch_sizes, bias=b, order=order)
    else:
        forward: RecurrenceForward = getattr(kernels, f"{cell.name}_forward")
        states = forward(projected, rows, h0, c0, Wh, batch_sizes, bias=b, h0_bias=h0_bias, order=order)
    return Recurrence(cell, kernels, x, rows, groups, h0, c0, Wx, Wh, Wattn, b, batch_sizes, order, states)


def recurrent_backward(
    dhidden: Array, dcell: Array | None, forward: Recurrence
) -> tuple[Array, Array, Array | None, Array, Array, Array]:
    """Run a recurrent layer backward.

    Parameters
    ----------
    dhidden : array, shape (M, H)
        Gradient with respect to each hidden state, from outside the recurrence.
    dcell : array, shape (M, H), or None
        The same for cell states; None is zero.
    forward : Recurrence
        From `recurrent_forward`.

    Returns
    -------
    dx : array, shaped like `x`
        Gradient with respect to the inputs.
    dh0, dc0 : array, shaped like `h0`
        Gradients with respect to the initial states; `dc0` is None for a cell without a cell state.
    dWx, dWh, db : array
        Gradients with respect to the parameters.
    """
    gradients = backward_through_time(dhidden, dcell, forward)
    dWh = recurrent_weights_gradient(gradients, forward)
    dx, dWx, db = input_gradients(gradients, forward)
    return dx, gradients.dh0, gradients.dc0, dWx, dWh, db


def backward_through_time(dhidden: Array, dcell: Array | None, forward: Recurrence) -> RecurrenceGradients:
    """Run the recurrence alone backward, down to the pre-activations: the first half of `recurrent_backward`.

    Parameters
    ----------
    dhidden, dcell, forward
        As for `recurrent_backward`.

    Returns
    -------
    RecurrenceGradients
        For `recurrent_weights_gradient` and `input_gradients`. Of a cell that attends, `dh0` is the gradient of the
        projected cells.
    """
    f, kernels, states = forward, forward.kernels, forward.states
    if isinstance(states, AttentionStates):
        saved = states.gates, states.cell, states.previous, states.attention
        dprojected, dA = kernels.attention_lstm_backward(
            dhidden, *saved, f.h0, f.Wh, f.Wattn, f.batch_sizes, order=f.order
        )
        return RecurrenceGradients(dprojected, None, dA, None)
    backward: RecurrenceBackward = getattr(kernels, f"{f.cell.name}_backward")
    return backward(dhidden, dcell, *states, f.c0, f.Wh, f.batch_sizes, order=f.order)


def recurrent_weights_gradient(gradients: RecurrenceGradients, forward: Recurrence) -> Array:
    """Return the gradient with respect to Wh, after `backward_through_time`.

    Parameters
    ----------
    gradients : RecurrenceGradients
        From `backward_through_time`.
    forward : Recurrence
        From `recurrent_forward`; of its states, those before each step alone are read.

    Returns
    -------
    array, shape (H, G)
        The gradient.
    """
    return forward.kernels.matmul(forward.states.previous, gradients.of_recurrent_part, transpose_a=True)


def input_gradients(gradients: RecurrenceGradients, forward: Recurrence) -> tuple[Array, Array, Array]:
    """Return the gradients with respect to the inputs and what projects them, after `backward_through_time`.

    Parameters
    ----------
    gradients : RecurrenceGradients
        From `backward_through_time`.
    forward : Recurrence
        From `recurrent_forward`; its states are not read.

    Returns
    -------
    dx, dWx, db
        As from `recurrent_backward`.
    """
    kernels, x, rows = forward.kernels, forward.x, forward.rows
    dprojected, drecurrent = gradients.dprojected, gradients.of_recurrent_part
    if rows is not None:
        # sums over equal inputs first: the products that follow have one row a distinct input
        dprojected = kernels.embedding_gradient(dprojected, rows, x.shape[0], forward.groups)
    dx = kernels.matmul(dprojected, forward.Wx, transpose_b=True)
    further = forward.b.shape[0] - dprojected.shape[1]  # biases of the last recurrent sums
    summed = (dprojected, drecurrent[:, -further:]) if further else (dprojected,)
    return dx, kernels.matmul(x, dprojected, transpose_a=True), kernels.column_sums(*summed)
