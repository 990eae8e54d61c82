"""How a recurrence is shared among threads: each owns a run of hidden units, for all steps.

A thread's columns of the recurrent weights stay in its second cache level from step to step, where the whole matrix
would not; it computes all gates of its units, and the threads meet once a step. The other way, whole sequences a
thread, needs no meetings, but every thread reads all weights at every step.
"""

from __future__ import annotations

from typing import Any

from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.gemm import pack_columns_whole, product_with_packed
from capgpu.kernels.cpu.gemm_microkernel import PANEL_BYTES

__all__ = ["pack_gates", "packed_size", "product_of_gates", "unit_range", "weights_size"]


def packed_size(depth: int, columns: int, n_gates: int, itemsize: int) -> int:
    """Return the number of elements of weights (depth, n_gates * columns), packed for any number of threads."""
    lanes = PANEL_BYTES // itemsize
    return (columns + lanes - 1) // lanes * lanes * depth * n_gates


#: The same for compiled code.
weights_size = compiled()(packed_size)


@compiled(inline=True)
def unit_range(index: int, count: int, units: int, itemsize: int) -> tuple[int, int]:
    """Return the first and the last but one unit of a share: whole panels."""
    lanes = PANEL_BYTES // itemsize
    panels = (units + lanes - 1) // lanes
    return min(units, panels * index // count * lanes), min(units, panels * (index + 1) // count * lanes)


@compiled(allocates=False)
def pack_gates(weights: Any, n_gates: int, left: int, right: int, packed: Any) -> int:
    """Pack the columns of units left..right-1 of each gate; return where they begin in `packed`."""
    depth, units = weights.shape[0], weights.shape[1] // n_gates
    start: int = left * depth * n_gates
    if right - left == units:
        pack_columns_whole(weights, False, 0, n_gates * units, packed, start)
    else:
        for gate in range(n_gates):
            place = start + gate * _run(depth, left, right, weights.itemsize)
            pack_columns_whole(weights, False, gate * units + left, right - left, packed, place)
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
    n_gates: int,
    left: int,
    right: int,
    out: Any,
    row: int,
    edge: Any,
) -> None:
    """Multiply rows of states by what `pack_gates` packed, into the same columns of `out`."""
    depth, units = states.shape[1], out.shape[1] // n_gates
    if right - left == units:
        product_with_packed(states, first, rows, packed, start, depth, out, row, 0, n_gates * units, edge)
    else:
        for gate in range(n_gates):
            place = start + gate * _run(depth, left, right, states.itemsize)
            column = gate * units + left
            product_with_packed(states, first, rows, packed, place, depth, out, row, column, right - left, edge)
