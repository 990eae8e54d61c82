"""How a recurrence is shared among threads: each owns a run of hidden units, for all steps.

A thread's columns of the recurrent weights stay in its second cache level from step to step, where the whole matrix
would not; it computes all gates of its units, and the threads meet once a step. The other way, whole sequences a
thread, needs no meetings, but every thread reads all weights at every step.

With factors rounded to bfloat16 other functions pack and multiply. Compiled code receives their addresses in
`Products`: of the default precision it holds nothing but zeros, and those functions are not compiled.
"""

from __future__ import annotations

from typing import Any

from capgpu.kernels.contract import Precision
from capgpu.kernels.cpu.bf16_microkernel import COLUMNS, DEEP, TILE_BYTES
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.gemm import pack_columns_whole, product_with_packed
from capgpu.kernels.cpu.gemm_microkernel import PANEL_BYTES, ROWS
from capgpu.kernels.cpu.symbols import call_address
from capgpu.kernels.loading import imported

__all__ = [
    "Products",
    "pack_gates",
    "packed_size",
    "product_of_gates",
    "products",
    "scratch_size",
    "unit_range",
    "weights_size",
]

#: Addresses of functions that pack weights and multiply by them, those of `capgpu.kernels.cpu.bf16_microkernel.Unit`,
#: and elements of scratch that a task needs. Zeros: the float32 kernel.
Products = tuple[int, ...]


def products(precision: Precision, rows: int, depth: int) -> Products:
    """Return how a recurrence multiplies, of at most `rows` rows at a step and sums of `depth` products."""
    if precision == "float32":
        return (0,) * 6
    rounding: Products = imported("capgpu.kernels.cpu.bf16_recurrent").rounded_products(rows, depth)
    return rounding


def packed_size(depth: int, columns: int, n_gates: int, itemsize: int, rounded: bool, n_tasks: int) -> int:
    """Return the number of elements of weights (depth, n_gates * columns), packed for any number of threads."""
    if rounded:
        # of each gate, each task has whole tiles
        tiles = n_gates * ((columns + COLUMNS - 1) // COLUMNS + n_tasks) * ((depth + DEEP - 1) // DEEP)
        return tiles * (TILE_BYTES // itemsize)
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


@compiled(inline=True)
def scratch_size(multiply: Products, itemsize: int) -> int:
    """Return how many elements of scratch a task needs for its products."""
    return multiply[5] if multiply[0] else ROWS * (PANEL_BYTES // itemsize)


@compiled(allocates=False)
def pack_gates(
    multiply: Products,
    weights: Any,
    transposed: bool,
    n_gates: int,
    left: int,
    right: int,
    index: int,
    packed: Any,
    edge: Any,
) -> int:
    """Pack the columns of units left..right-1 of each gate, a task's own; return where they begin in `packed`."""
    depth, columns = weights.shape
    if transposed:
        depth, columns = columns, depth
    units = columns // n_gates
    if multiply[0]:
        size = TILE_BYTES // weights.itemsize
        first: int = (left // COLUMNS + index) * n_gates * ((depth + DEEP - 1) // DEEP) * size
        source, target = weights.ctypes.data, packed.ctypes.data + first * weights.itemsize
        stride, work = weights.shape[1], edge.ctypes.data
        call_address(multiply[0], (source, stride, transposed, depth, n_gates, units, left, right, target, work))
        return first
    start: int = left * depth * n_gates
    if right - left == units:
        pack_columns_whole(weights, transposed, 0, n_gates * units, packed, start)
    else:
        for gate in range(n_gates):
            place = start + gate * _run(depth, left, right, weights.itemsize)
            pack_columns_whole(weights, transposed, gate * units + left, right - left, packed, place)
    return start


@compiled(inline=True)
def _run(depth: int, left: int, right: int, itemsize: int) -> int:
    lanes = PANEL_BYTES // itemsize
    return (right - left + lanes - 1) // lanes * lanes * depth


@compiled(allocates=False)
def product_of_gates(
    multiply: Products,
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
    if multiply[0]:
        size = states.itemsize
        source, target = states.ctypes.data + first * depth * size, out.ctypes.data + row * out.shape[1] * size
        weights, work, unit = packed.ctypes.data + start * size, edge.ctypes.data, multiply[2:5]
        call_address(multiply[1], (source, rows, depth, weights, n_gates, units, left, right, target, work, *unit))
    elif right - left == units:
        product_with_packed(states, first, rows, packed, start, depth, out, row, 0, n_gates * units, edge)
    else:
        for gate in range(n_gates):
            place = start + gate * _run(depth, left, right, states.itemsize)
            column = gate * units + left
            product_with_packed(states, first, rows, packed, place, depth, out, row, column, right - left, edge)
