"""How a recurrence is shared among threads: each owns a run of hidden units, for all steps.

A thread's columns of the recurrent weights stay in its second cache level from step to step, where the whole matrix
would not; it computes all gates of its units, and the threads meet once a step. The other way, whole sequences a
thread, needs no meetings, but every thread reads all weights at every step.
"""

from __future__ import annotations

from typing import Any

from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.product import pack_columns_whole, product_with_packed
from capgpu.kernels.cpu.tile import PANEL_BYTES

__all__ = ["owned_units", "pack_gates", "packed_size", "product_of_gates", "weights_size"]


def packed_size(depth: int, columns: int, kinds: int, itemsize: int) -> int:
    """Return the number of elements of weights (depth, kinds * columns), packed for any number of threads."""
    lanes = PANEL_BYTES // itemsize
    return (columns + lanes - 1) // lanes * lanes * depth * kinds


#: The same for compiled code.
weights_size = compiled()(packed_size)


@compiled(inline=True)
def owned_units(index: int, count: int, units: int, itemsize: int) -> tuple[int, int]:
    """Return the first and the last but one unit of a share: whole panels."""
    lanes = PANEL_BYTES // itemsize
    panels = (units + lanes - 1) // lanes
    return min(units, panels * index // count * lanes), min(units, panels * (index + 1) // count * lanes)


@compiled(allocates=False)
def pack_gates(weights: Any, kinds: int, left: int, right: int, packed: Any) -> int:
    """Pack the columns of units left..right-1 in each kind of gate; return where they begin in `packed`."""
    depth, units = weights.shape[0], weights.shape[1] // kinds
    start: int = left * depth * kinds
    if right - left == units:
        pack_columns_whole(weights, False, 0, kinds * units, packed, start)
    else:
        for kind in range(kinds):
            place = start + kind * _run(depth, left, right, weights.itemsize)
            pack_columns_whole(weights, False, kind * units + left, right - left, packed, place)
    return start


@compiled(inline=True)
def _run(depth: int, left: int, right: int, itemsize: int) -> int:
    lanes = PANEL_BYTES // itemsize
    return (right - left + lanes - 1) // lanes * lanes * depth


@compiled(allocates=False)
def product_of_gates(
    states: Any,
    first: int,
    rows: int,
    packed: Any,
    start: int,
    kinds: int,
    left: int,
    right: int,
    out: Any,
    row: int,
    edge: Any,
) -> None:
    """Multiply rows of states by what `pack_gates` packed, into the same columns of `out`."""
    depth, units = states.shape[1], out.shape[1] // kinds
    if right - left == units:
        product_with_packed(states, first, rows, packed, start, depth, out, row, 0, kinds * units, edge)
    else:
        for kind in range(kinds):
            place = start + kind * _run(depth, left, right, states.itemsize)
            column = kind * units + left
            product_with_packed(states, first, rows, packed, place, depth, out, row, column, right - left, edge)
