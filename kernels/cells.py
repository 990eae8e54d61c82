"""The recurrent cells of all targets, and the types of their two operations in the contract.

`CELLS` holds the properties of each cell besides its mathematics. A cell named NAME has the operations
``NAME_forward``, a `RecurrenceForward`, and ``NAME_backward``, a `RecurrenceBackward`: the same types for all cells, so
that layers and launchers serve every cell in the same way.
"""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

from capgpu.backend import Array
from capgpu.kernels.contract import Precision, States

__all__ = ["CELLS", "CellShape", "RecurrenceBackward", "RecurrenceForward", "RecurrenceGradients", "cell_of_weights"]


class CellShape(NamedTuple):
    """Numbers of a unit of a recurrent cell.

    Attributes
    ----------
    n_gates : int
        Pre-activations: Wx is (D, n_gates * H), and Wh (H, n_gates * H). No other cell has as many: decoding tells the
        cells apart by it (`cell_of_weights`).
    n_biases : int
        Biases: `n_gates`, or one more, which is added to the last block of ``h Wh``.
    n_saved : int
        Numbers that the forward pass saves for the backward pass besides the states: activated gates, and what else
        that reads; at least `n_gates`, or 0 where the hidden state is the only gate.
    has_state : bool
        Whether a cell state c accompanies the hidden state.
    splits_gradient : bool
        Whether the gradients of the input's and of the recurrent part of the pre-activations differ.
    """

    n_gates: int
    n_biases: int
    n_saved: int
    has_state: bool
    splits_gradient: bool


#: The cells. A new one is entered here.
CELLS = {
    "rnn": CellShape(n_gates=1, n_biases=1, n_saved=0, has_state=False, splits_gradient=False),
    "lstm": CellShape(n_gates=4, n_biases=4, n_saved=4, has_state=True, splits_gradient=False),
    "gru": CellShape(n_gates=3, n_biases=4, n_saved=4, has_state=False, splits_gradient=True),
}
_BY_GATES = {shape.n_gates: name for name, shape in CELLS.items()}


def cell_of_weights(Wh: Array) -> str:
    """Return the name of the cell that recurrent weights (H, n_gates * H) belong to."""
    return _BY_GATES[Wh.shape[1] // Wh.shape[0]]


class RecurrenceGradients(NamedTuple):
    """What the backward pass of a recurrence computes.

    Attributes
    ----------
    dprojected : array, shape (M, G)
        Gradient with respect to the input's part ``x Wx + b`` of the pre-activations of each packed row.
    drecurrent : array, shape (M, G), or None
        Gradient with respect to the recurrent part ``h Wh``; None where it is `dprojected`.
    dh0 : array, shaped like `h0`
        Gradient with respect to the initial hidden states; zero for sequences without any step.
    dc0 : array, shaped like `h0`, or None
        The same for the cell states; None for a cell without.
    """

    dprojected: Array
    drecurrent: Array | None
    dh0: Array
    dc0: Array | None

    @property
    def of_recurrent_part(self) -> Array:
        """`drecurrent`, or `dprojected` where that is the same."""
        return self.dprojected if self.drecurrent is None else self.drecurrent


class RecurrenceForward(Protocol):
    """Run a recurrence over packed sequences."""

    def __call__(
        self,
        projected: Array,
        rows: Array | None,
        h0: Array,
        c0: Array | None,
        Wh: Array,
        batch_sizes: Any,
        *,
        bias: Array | None = None,
        h0_bias: Array | None = None,
        order: Array | None = None,
        precision: Precision = "float32",
    ) -> States:
        """Run the recurrence; G is ``n_gates * H``.

        Parameters
        ----------
        projected : array, shape (M, G), or (U, G) with `rows`
            ``x @ Wx``.
        rows : array of int, shape (M,), or None
            Row of `projected` for each packed row.
        h0 : array, shape (batch_sizes[0], H), or (N, H) with `order`
            Initial hidden states.
        c0 : array, shaped like `h0`, or None
            Initial cell states; None is zero. Not read for a cell without.
        Wh : array, shape (H, G)
            Recurrent weights.
        batch_sizes : numpy.ndarray of int64, shape (T,)
            Rows of each step.
        bias : array, shape (n_biases * H,)
            The biases; None is zero, for a cell that has no further ones than those of its gates.
        h0_bias : array, shape (H,), optional
            Added to `h0`.
        order : array of int, shape (N,), optional
            Row of `h0` and `c0` for each sequence.
        precision : {"float32", "bf16"}
            How the products read their factors (`capgpu.kernels.contract.Precision`).

        Returns
        -------
        States
            Hidden and cell states, what is saved of the gates, and the hidden states before each step.
        """


class RecurrenceBackward(Protocol):
    """Run a recurrence backward, down to the pre-activations."""

    def __call__(
        self,
        dhidden: Array,
        dcell: Array | None,
        hidden: Array | None,
        cell: Array | None,
        gates: Array | None,
        previous: Array | None,
        c0: Array | None,
        Wh: Array,
        batch_sizes: Any,
        *,
        order: Array | None = None,
        precision: Precision = "float32",
    ) -> RecurrenceGradients:
        """Run the recurrence backward.

        The gradients of weights, biases and inputs are products and sums over all rows at once, made by the caller.

        Parameters
        ----------
        dhidden : array, shape (M, H)
            Gradient of the loss with respect to each hidden state, from outside the recurrence.
        dcell : array, shape (M, H), or None
            The same for the cell states; None is zero.
        hidden, cell, gates, previous : array or None
            The `States` of the forward pass; those that the cell's mathematics does not name may be None.
        c0, Wh, batch_sizes, order, precision
            As for the forward pass.

        Returns
        -------
        RecurrenceGradients
            Gradients of the pre-activations and of the initial states.
        """
