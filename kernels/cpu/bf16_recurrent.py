"""Recurrent products whose factors are rounded to bfloat16: weights once a pass, states at every step.

Compiled recurrences receive these functions as addresses (`capgpu.kernels.cpu.recurrent_gemm`), so that none of them
is compiled where it is not used.
"""

from __future__ import annotations

from numba import types

from capgpu.kernels.cpu.bf16_gemm import ASIDE, squares
from capgpu.kernels.cpu.bf16_microkernel import COLUMNS, TILE_BYTES, unit
from capgpu.kernels.cpu.bf16_pack import EDGE, pack, tiles_along
from capgpu.kernels.cpu.symbols import address_of, call_address, called_by_symbol

__all__ = ["rounded_products"]


def _pack_units(
    weights: int,
    stride: int,
    transposed: int,
    depth: int,
    n_gates: int,
    units: int,
    left: int,
    right: int,
    packed: int,
    work: int,
) -> None:
    step = tiles_along(depth) * TILE_BYTES
    run = (right - left + COLUMNS - 1) // COLUMNS * step
    for gate in range(n_gates):
        column = gate * units + left
        source = weights + 4 * (column * stride if transposed else column)
        pack(source, stride, transposed != 0, True, right - left, depth, packed + gate * run, step, work)


def _multiply_units(
    states: int,
    rows: int,
    depth: int,
    packed: int,
    n_gates: int,
    units: int,
    left: int,
    right: int,
    out: int,
    work: int,
    kernel: int,
    begin: int,
    end: int,
) -> None:
    tiles = tiles_along(depth)
    step = tiles * TILE_BYTES
    run = (right - left + COLUMNS - 1) // COLUMNS * step
    aside, a = work + 4 * EDGE, work + 4 * (EDGE + ASIDE)
    if begin:
        call_address(begin, ())
    pack(states, depth, True, False, rows, depth, a, step, work)
    for gate in range(n_gates):
        place = out + 4 * (gate * units + left)
        columns = right - left
        squares(kernel, a, step, packed + gate * run, step, place, n_gates * units, rows, columns, tiles, False, aside)
    if end:
        call_address(end, ())


_PACK = called_by_symbol(_pack_units, types.void(*[types.int64] * 10))
_MULTIPLY = called_by_symbol(_multiply_units, types.void(*[types.int64] * 13))


def rounded_products(rows: int, depth: int) -> tuple[int, ...]:
    """Return what a recurrence of at most `rows` rows and a sum of `depth` products is handed.

    Returns
    -------
    tuple of int
        Addresses of the functions that pack and that multiply, those of the unit, and the elements of scratch that
        each task needs.
    """
    tiles = (rows + COLUMNS - 1) // COLUMNS * tiles_along(depth)
    return (address_of(_PACK), address_of(_MULTIPLY), *unit(), EDGE + ASIDE + tiles * TILE_BYTES // 4)
