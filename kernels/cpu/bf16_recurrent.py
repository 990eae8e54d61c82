"""Recurrent products whose factors are rounded to bfloat16: weights once a pass, states at every step.

Compiled recurrences receive these functions as addresses (`capgpu.kernels.cpu.recurrent_gemm`), so that none of them
is compiled where it is not used.
"""

from __future__ import annotations

from numba import types

from capgpu.kernels.cpu.bf16_gemm import ASIDE, squares
from capgpu.kernels.cpu.bf16_microkernel import COLUMNS, TILE_BYTES, unit
from capgpu.kernels.cpu.bf16_pack import BLOCK, pack, tiles_along
from capgpu.kernels.cpu.symbols import address_of, call_address, called_by_symbol

__all__ = ["rounded_products"]


def _pack_units(
    weights: int,
    stride: int,
    transposed: int,
    depth: int,
    n_gates: int,
    units: int,
    begin_unit: int,
    end_unit: int,
    packed: int,
    work: int,
) -> None:
    step = tiles_along(depth) * TILE_BYTES
    gate_bytes = (end_unit - begin_unit + COLUMNS - 1) // COLUMNS * step
    for gate in range(n_gates):
        column = gate * units + begin_unit
        source = weights + 4 * (column * stride if transposed else column)
        pack(
            source, stride, transposed != 0, True, end_unit - begin_unit, depth, packed + gate * gate_bytes, step, work
        )


def _multiply_units(
    states: int,
    rows: int,
    depth: int,
    packed: int,
    n_gates: int,
    units: int,
    begin_unit: int,
    end_unit: int,
    out: int,
    stride: int,
    adds: int,
    work: int,
    kernel: int,
    begin: int,
    end: int,
) -> None:
    tiles = tiles_along(depth)
    step = tiles * TILE_BYTES
    gate_bytes = (end_unit - begin_unit + COLUMNS - 1) // COLUMNS * step
    aside, a = work + 4 * BLOCK, work + 4 * (BLOCK + ASIDE)
    if begin:
        call_address(begin, ())
    pack(states, depth, True, False, rows, depth, a, step, work)
    for gate in range(n_gates):
        target, b = out + 4 * (gate * units + begin_unit), packed + gate * gate_bytes
        columns = end_unit - begin_unit
        squares(kernel, a, step, b, step, target, stride, rows, columns, tiles, adds != 0, aside)
    if end:
        call_address(end, ())


_PACK = called_by_symbol(_pack_units, types.void(*[types.int64] * 10))
_MULTIPLY = called_by_symbol(_multiply_units, types.void(*[types.int64] * 15))


def rounded_products(rows: int, depth: int) -> tuple[int, ...]:
    """Return what a recurrence of at most `rows` rows and a sum of `depth` products multiplies with.

    Returns
    -------
    tuple of int
        Addresses of the functions that pack and that multiply, those of the unit, and the elements of scratch that
        each task needs.
    """
    tiles = (rows + COLUMNS - 1) // COLUMNS * tiles_along(depth)
    return (address_of(_PACK), address_of(_MULTIPLY), *unit(), BLOCK + ASIDE + tiles * TILE_BYTES // 4)
