"""How a recurrence is shared among threads: each owns a range of hidden units, for all steps.

A thread's columns of the recurrent weights stay in its second cache level from step to step, where the whole matrix
would not; it computes all gates of its units, and the threads wait for each other once a step. The other way, whole
sequences a thread, needs no barriers, but every thread reads all weights at every step.

With factors rounded to bfloat16 other functions pack and multiply. Compiled code receives their addresses in
`Products`: of the default precision it holds nothing but zeros, and those functions are not compiled.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from capgpu.kernels.contract import Precision
from capgpu.kernels.cpu.bf16_microkernel import COLUMNS, DEEP, TILE_BYTES
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.gemm import pack_columns_whole, product_with_packed
from capgpu.kernels.cpu.gemm_microkernel import PANEL_BYTES, ROWS
from capgpu.kernels.cpu.symbols import call_address
from capgpu.kernels.loading import imported

__all__ = [
    "PackedColumns",
    "Products",
    "add_product_with_columns",
    "pack_columns",
    "packed_size",
    "product_with_columns",
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
    """Return the half-open range of units of a task, rounded to the panel width."""
    lanes = PANEL_BYTES // itemsize
    panels = (units + lanes - 1) // lanes
    return min(units, panels * index // count * lanes), min(units, panels * (index + 1) // count * lanes)


@compiled(inline=True)
def scratch_size(multiply: Products, itemsize: int) -> int:
    """Return how many elements of scratch a task needs for its products."""
    return multiply[5] if multiply[0] else ROWS * (PANEL_BYTES // itemsize)


class PackedColumns(NamedTuple):
    """A task's columns of a matrix of weights, packed.

    Attributes
    ----------
    memory : array
        The packed columns of all tasks, `packed_size` elements.
    offset : int
        Element of `memory` at which this task's begin.
    n_gates : int
        Gates of a unit; the columns of a gate lie side by side.
    units : int
        Units of a gate, H.
    begin, end : int
        The half-open range of units: the task has their columns of each gate.
    """

    memory: Any
    offset: int
    n_gates: int
    units: int
    begin: int
    end: int


@compiled(inline=True)
def pack_columns(
    multiply: Products,
    weights: Any,
    transposed: bool,
    n_gates: int,
    index: int,
    count: int,
    memory: Any,
    scratch: Any,
) -> PackedColumns:
    """Pack the columns of op(weights) that task `index` of `count` owns."""
    units = (weights.shape[0] if transposed else weights.shape[1]) // n_gates
    begin, end = unit_range(index, count, units, weights.itemsize)
    offset = _pack(multiply, weights, transposed, n_gates, index, begin, end, memory, scratch)
    return PackedColumns(memory, offset, n_gates, units, begin, end)


@compiled()
def _pack(
    multiply: Products,
    weights: Any,
    transposed: bool,
    n_gates: int,
    index: int,
    begin: int,
    end: int,
    memory: Any,
    scratch: Any,
) -> int:
    """Pack the columns of units begin..end-1 of each gate; return where they begin in `memory`."""
    depth, width = weights.shape
    if transposed:
        depth, width = width, depth
    units = width // n_gates
    if multiply[0]:
        size = TILE_BYTES // weights.itemsize
        first_tile: int = (begin // COLUMNS + index) * n_gates * ((depth + DEEP - 1) // DEEP) * size
        source, target = weights.ctypes.data, memory.ctypes.data + first_tile * weights.itemsize
        stride, work = weights.shape[1], scratch.ctypes.data
        call_address(multiply[0], (source, stride, transposed, depth, n_gates, units, begin, end, target, work))
        return first_tile
    offset: int = begin * depth * n_gates
    if end - begin == units:
        pack_columns_whole(weights, transposed, 0, n_gates * units, memory, offset)
    else:
        for gate in range(n_gates):
            gate_offset = offset + gate * _gate_size(depth, begin, end, weights.itemsize)
            pack_columns_whole(weights, transposed, gate * units + begin, end - begin, memory, gate_offset)
    return offset


@compiled(inline=True)
def _gate_size(depth: int, begin: int, end: int, itemsize: int) -> int:
    """Return how many elements the packed columns of one gate take."""
    lanes = PANEL_BYTES // itemsize
    return (end - begin + lanes - 1) // lanes * lanes * depth


@compiled()
def product_with_columns(multiply: Products, states: Any, columns: PackedColumns, out: Any, scratch: Any) -> None:
    """Multiply rows of states by a task's packed columns, into the same columns of `out`, which may have more."""
    _multiply(multiply, states, columns, out, False, scratch)


@compiled()
def add_product_with_columns(multiply: Products, states: Any, columns: PackedColumns, out: Any, scratch: Any) -> None:
    """Do what `product_with_columns` does, but add to what is in `out`."""
    _multiply(multiply, states, columns, out, True, scratch)


@compiled()
def _multiply(multiply: Products, states: Any, columns: PackedColumns, out: Any, adds: bool, scratch: Any) -> None:
    rows, depth = states.shape
    packed, offset, n_gates, units, begin, end = columns
    if multiply[0]:
        source, target, work = states.ctypes.data, out.ctypes.data, scratch.ctypes.data
        weights, unit = packed.ctypes.data + offset * states.itemsize, multiply[2:5]
        stride = out.shape[1]
        call_address(
            multiply[1], (source, rows, depth, weights, n_gates, units, begin, end, target, stride, adds, work, *unit)
        )
    elif end - begin == units:
        product_with_packed(states, packed, offset, out, 0, n_gates * units, adds, scratch)
    else:
        for gate in range(n_gates):
            gate_offset = offset + gate * _gate_size(depth, begin, end, states.itemsize)
            product_with_packed(states, packed, gate_offset, out, gate * units + begin, end - begin, adds, scratch)
