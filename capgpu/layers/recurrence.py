"""A recurrent layer over packed sequences, whatever its cell: projection of the inputs, recurrence, and back.

    a = x Wx + b + h Wh,  then the cell's pointwise mathematics (`capgpu.kernels.reference.recurrence`)

A cell is a `Cell`, defined in its module beside its batch-first functions, which are views of the functions here
(`capgpu.layers.lstm`, `capgpu.layers.rnn`, `capgpu.layers.gru`); `capgpu.layers.cells` lists the cells. The captioner
is built on this module (`capgpu.captioner`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

from capgpu.backend import Array
from capgpu.errors import InvalidValueError
from capgpu.kernels import AttentionStates, RowGroups, States, kernels_for
from capgpu.validation import check_arrays

if TYPE_CHECKING:
    from capgpu.kernels.reference import Kernels

__all__ = [
    "Cell",
    "Gradients",
    "Operands",
    "Recurrence",
    "backward_through_time",
    "check_hidden_gradient",
    "from_time_major",
    "input_gradients",
    "recurrent_backward",
    "recurrent_forward",
    "recurrent_weights_gradient",
    "to_time_major",
]


class Operands(NamedTuple):
    """What a recurrence reads besides the inputs' projection; see `recurrent_forward`."""

    rows: Array | None
    h0: Array
    c0: Array | None
    Wh: Array
    b: Array
    batch_sizes: Any
    h0_bias: Array | None
    order: Array | None
    Wattn: Array | None


class Gradients(NamedTuple):
    """What a cell's backward pass computes.

    Attributes
    ----------
    dprojected : array, shape (M, G)
        Gradient with respect to the input's part ``x Wx + b`` of the pre-activations.
    drecurrent : array, shape (M, G)
        Gradient with respect to the recurrent part ``h Wh``: the same array, unless the cell uses the parts apart.
    dh0, dc0 : array, shaped like `h0`
        Gradients with respect to the initial states; `dc0` is None for a cell without a cell state, and for one that
        attends.
    """

    dprojected: Array
    drecurrent: Array
    dh0: Array
    dc0: Array | None


class Recurrence(NamedTuple):
    """The operands and results of a forward pass that the backward pass reads."""

    cell: Cell
    kernels: Kernels
    x: Array
    groups: RowGroups | None
    Wx: Array
    operands: Operands
    states: States | AttentionStates

    @property
    def batch_sizes(self) -> Any:
        """Rows of each step."""
        return self.operands.batch_sizes


@dataclass(frozen=True)
class Cell:
    """A recurrent cell: what distinguishes it, for all code that serves every cell.

    Attributes
    ----------
    name : str
        Its kernels are the operations ``{name}_forward`` and ``{name}_backward``.
    n_gates : int
        Blocks of H columns of Wx and Wh.
    n_biases : int
        Blocks of H biases: `n_gates`, and further ones that are added to the last blocks of ``h Wh``.
    has_cell_state : bool
        Whether a cell state c accompanies the hidden state.
    forward : callable
        (kernels, projected inputs, operands) -> states of all packed rows: calls the forward operation.
    backward : callable
        (dhidden, dcell or None, forward pass) -> gradients: calls the backward operation.
    attends : bool
        Whether it starts from a grid of projected cells, and reads them at each step through weights Wattn.
    """

    name: str
    n_gates: int
    n_biases: int
    has_cell_state: bool
    forward: Callable[[Kernels, Array, Operands], States | AttentionStates]
    backward: Callable[[Array, Array | None, Recurrence], Gradients]
    attends: bool = False


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
        Input weights, recurrent weights, biases; G = ``cell.n_gates * H``, B = ``cell.n_biases * H``.
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
    operands = Operands(rows, h0, c0, Wh, b, batch_sizes, h0_bias, order, Wattn)
    states = cell.forward(kernels, kernels.matmul(x, Wx), operands)
    return Recurrence(cell, kernels, x, groups, Wx, operands, states)


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


def backward_through_time(dhidden: Array, dcell: Array | None, forward: Recurrence) -> Gradients:
    """Run the recurrence alone backward, down to the pre-activations: the first half of `recurrent_backward`.

    Parameters
    ----------
    dhidden, dcell, forward
        As for `recurrent_backward`.

    Returns
    -------
    Gradients
        For `recurrent_weights_gradient` and `input_gradients`.
    """
    return forward.cell.backward(dhidden, dcell, forward)


def recurrent_weights_gradient(gradients: Gradients, forward: Recurrence) -> Array:
    """Return the gradient with respect to Wh, after `backward_through_time`.

    Parameters
    ----------
    gradients : Gradients
        From `backward_through_time`.
    forward : Recurrence
        From `recurrent_forward`; of its states, those before each step alone are read.

    Returns
    -------
    array, shape (H, G)
        The gradient.
    """
    return forward.kernels.matmul(forward.states.previous, gradients.drecurrent, transpose_a=True)


def input_gradients(gradients: Gradients, forward: Recurrence) -> tuple[Array, Array, Array]:
    """Return the gradients with respect to the inputs and what projects them, after `backward_through_time`.

    Parameters
    ----------
    gradients : Gradients
        From `backward_through_time`.
    forward : Recurrence
        From `recurrent_forward`; its states are not read.

    Returns
    -------
    dx, dWx, db
        As from `recurrent_backward`.
    """
    kernels, x, rows = forward.kernels, forward.x, forward.operands.rows
    dprojected, drecurrent, *_ = gradients
    if rows is not None:
        # sums over equal inputs first: the products that follow have one row a distinct input
        dprojected = kernels.embedding_gradient(dprojected, rows, x.shape[0], forward.groups)
    dx = kernels.matmul(dprojected, forward.Wx, transpose_b=True)
    further = forward.operands.b.shape[0] - dprojected.shape[1]  # biases of the last recurrent sums
    summed = (dprojected, drecurrent[:, -further:]) if further else (dprojected,)
    return dx, kernels.matmul(x, dprojected, transpose_a=True), kernels.column_sums(*summed)


def check_hidden_gradient(dh: Array, cache: Recurrence) -> tuple[Any, Array]:
    """Check the gradient of the hidden states of whole sequences; return its namespace, and its rows, time-major.

    Parameters
    ----------
    dh : array, shape (N, T, H)
        Gradient with respect to the hidden states.
    cache : Recurrence
        From the forward pass over N sequences of T steps.

    Raises
    ------
    ValueError
        For a shape that does not fit.
    """
    hidden, count = cache.states.hidden, int(cache.batch_sizes[0])
    xp = check_arrays(h0=(hidden[:count, :], "N H"), dh=(dh, "N T H"))
    if dh.shape[1] != cache.batch_sizes.size:
        raise InvalidValueError(
            f"dh: expected {cache.batch_sizes.size} steps, as the forward pass had, got {dh.shape[1]}."
        )
    return xp, to_time_major(dh, xp)


def to_time_major(x: Array, xp: Any) -> Array:
    """Lay out a batch-first array (N, T, D) as rows of time steps (T N, D)."""
    count, steps, size = x.shape
    return xp.reshape(xp.permute_dims(x, (1, 0, 2)), (steps * count, size))


def from_time_major(rows: Array, count: int, xp: Any) -> Array:
    """Undo `to_time_major` for `count` sequences."""
    steps = rows.shape[0] // count
    return xp.permute_dims(xp.reshape(rows, (steps, count, rows.shape[1])), (1, 0, 2))
