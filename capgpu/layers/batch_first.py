"""Batch-first views of a recurrent layer, whatever its cell: one step (N, D), and whole sequences (N, T, D).

The functions of a cell's module, such as `capgpu.layers.gru`, are these for one cell. The values of a cache are the
`capgpu.layers.recurrence.Recurrence` of the packed layer.
"""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.errors import InvalidValueError
from capgpu.kernels import States
from capgpu.layers.cache import LayerCache, read_cache
from capgpu.layers.recurrence import Cell, Recurrence, recurrent_backward, recurrent_forward
from capgpu.sequence import Packing
from capgpu.validation import check_arrays, inputs_like

__all__ = [
    "check_hidden_gradient",
    "from_time_major",
    "sequences_backward",
    "sequences_forward",
    "step_backward",
    "step_forward",
    "step_gradients",
    "to_time_major",
]


def step_forward(
    cell: Cell, x: Array, prev_h: Array, prev_c: Array | None, Wx: Array, Wh: Array, b: Array
) -> tuple[States, LayerCache]:
    """Check the arguments of one step, and advance by it.

    Parameters
    ----------
    cell : Cell
        The cell.
    x : array, shape (N, D)
        Input at this step.
    prev_h, prev_c : array, shape (N, H)
        States before it; `prev_c` is not read for a cell without a cell state.
    Wx, Wh, b : array
        Parameters, of the shapes of the cell.

    Returns
    -------
    states : States
        The states after the step, one row for each of N.
    cache : LayerCache
        For `step_backward`.
    """
    states = {"prev_h": prev_h, "prev_c": prev_c} if cell.shape.has_state else {"prev_h": prev_h}
    x, *converted = inputs_like(Wx, x, *states.values())
    states = dict(zip(states, converted, strict=True))
    check_arrays(x=(x, "N D"), **{name: (array, "N H") for name, array in states.items()}, **_shapes(cell, Wx, Wh, b))
    batch_sizes = Packing.full(x.shape[0], 1).batch_sizes
    forward = recurrent_forward(cell, x, states["prev_h"], states.get("prev_c"), Wx, Wh, b, batch_sizes)
    assert isinstance(forward.states, States)  # the cell does not attend
    return forward.states, LayerCache(f"{cell.name}_step_forward", forward)


def step_backward(
    cell: Cell, dnext_h: Array, dnext_c: Array | None, cache: Any
) -> tuple[Array, Array, Array | None, Array, Array, Array]:
    """Compute the backward pass of `step_forward`.

    Parameters
    ----------
    cell : Cell
        The cell.
    dnext_h, dnext_c : array, shape (N, H)
        Gradients with respect to the states after the step; `dnext_c` is not read for a cell without a cell state.
    cache : LayerCache
        From `step_forward`.

    Returns
    -------
    dx, dprev_h, dprev_c, dWx, dWh, db
        Gradients; `dprev_c` is None for a cell without a cell state.

    Raises
    ------
    TypeError
        For the cache of another function.
    """
    return step_gradients(dnext_h, dnext_c, read_cache(cache, f"{cell.name}_step_forward"))


def step_gradients(
    dnext_h: Array, dnext_c: Array | None, forward: Recurrence
) -> tuple[Array, Array, Array | None, Array, Array, Array]:
    """Check the gradients of the states after one step, and compute its backward pass.

    Parameters
    ----------
    dnext_h, dnext_c
        As for `step_backward`.
    forward : Recurrence
        The step.

    Returns
    -------
    dx, dprev_h, dprev_c, dWx, dWh, db
        As from `step_backward`.
    """
    further = {"dnext_c": (dnext_c, "N H")} if forward.cell.shape.has_state else {}
    check_arrays(h=(forward.states.hidden, "N H"), dnext_h=(dnext_h, "N H"), **further)
    return recurrent_backward(dnext_h, dnext_c, forward)


def sequences_forward(cell: Cell, x: Array, h0: Array, Wx: Array, Wh: Array, b: Array) -> tuple[Array, LayerCache]:
    """Check the arguments of whole sequences, and run over them; an initial cell state is zero.

    Parameters
    ----------
    cell : Cell
        The cell.
    x : array, shape (N, T, D)
        Inputs.
    h0 : array, shape (N, H)
        Initial hidden states.
    Wx, Wh, b : array
        Parameters, of the shapes of the cell.

    Returns
    -------
    h : array, shape (N, T, H)
        Hidden states of all steps.
    cache : LayerCache
        For `sequences_backward`.
    """
    x, h0 = inputs_like(Wx, x, h0)
    xp = check_arrays(x=(x, "N T D"), h0=(h0, "N H"), **_shapes(cell, Wx, Wh, b))
    count, steps = x.shape[:2]
    batch_sizes = Packing.full(count, steps).batch_sizes
    forward = recurrent_forward(cell, to_time_major(x, xp), h0, None, Wx, Wh, b, batch_sizes)
    return from_time_major(forward.states.hidden, count, xp), LayerCache(f"{cell.name}_forward", forward)


def sequences_backward(cell: Cell, dh: Array, cache: Any) -> tuple[Array, Array, Array, Array, Array]:
    """Compute the backward pass of `sequences_forward`.

    Parameters
    ----------
    cell : Cell
        The cell.
    dh : array, shape (N, T, H)
        Gradient with respect to the hidden states.
    cache : LayerCache
        From `sequences_forward`.

    Returns
    -------
    dx, dh0, dWx, dWh, db
        Gradients.

    Raises
    ------
    TypeError
        For the cache of another function.
    """
    forward = read_cache(cache, f"{cell.name}_forward")
    xp, dhidden = check_hidden_gradient(dh, forward)
    dx, dh0, _, dWx, dWh, db = recurrent_backward(dhidden, None, forward)
    return from_time_major(dx, dh.shape[0], xp), dh0, dWx, dWh, db


def _shapes(cell: Cell, Wx: Array, Wh: Array, b: Array) -> dict[str, tuple[Array, str]]:
    """Return the parameters of a cell with their symbolic shapes, for `check_arrays`."""
    columns, biases = ("H" if n == 1 else f"{n}H" for n in (cell.shape.n_gates, cell.shape.n_biases))
    return {"Wx": (Wx, f"D {columns}"), "Wh": (Wh, f"H {columns}"), "b": (b, biases)}


def check_hidden_gradient(dh: Array, forward: Recurrence) -> tuple[Any, Array]:
    """Check the gradient of the hidden states of whole sequences; return its namespace, and its rows, time-major.

    Parameters
    ----------
    dh : array, shape (N, T, H)
        Gradient with respect to the hidden states.
    forward : Recurrence
        The forward pass over N sequences of T steps.

    Raises
    ------
    ValueError
        For a shape that does not fit.
    """
    hidden, count = forward.states.hidden, int(forward.batch_sizes[0])
    xp = check_arrays(h0=(hidden[:count, :], "N H"), dh=(dh, "N T H"))
    if dh.shape[1] != forward.batch_sizes.size:
        raise InvalidValueError(
            f"dh: expected {forward.batch_sizes.size} steps, as the forward pass had, got {dh.shape[1]}."
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
