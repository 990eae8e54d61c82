"""Rounding of float32 matrices to bfloat16, into the tiles of `capgpu.kernels.cpu.bf16_microkernel`.

A block is 16 rows (of A) or columns (of B) by `DEEP` elements along k. Where k is contiguous in memory, a block rounded
as it lies has A's layout; where it is not, B's. The transpose of a square of 16 x 16 pairs, in registers, makes one
layout of the other. Blocks at the edges of a matrix are filled up with zeros in float32 before they are rounded.

To nearest, ties to even. The processor's own instructions, where there are any, flush subnormal numbers to zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from capgpu.kernels.cpu.bf16_microkernel import COLUMNS, DEEP, FLOATS, I32, I64, TILE_BYTES, WORDS, rounds_in_hardware
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.symbols import by_symbol

__all__ = ["BLOCK", "copy_rows", "pack", "tiles_along"]

HALVES = ir.VectorType(ir.IntType(16), 2 * COLUMNS)
#: Elements of a block: of the scratch array in which one at an edge of a matrix is filled up.
BLOCK = COLUMNS * DEEP


def _words(values: list[int]) -> Any:
    return ir.Constant(ir.VectorType(I32, len(values)), [I32(value) for value in values])


def _load(builder: Any, address: Any) -> Any:
    return builder.load(builder.inttoptr(address, FLOATS.as_pointer()), align=4)


def _rounded(builder: Any, values: Any) -> Any:
    """Return float32 numbers rounded to bfloat16, in the upper halves of 32-bit words."""
    bits = builder.bitcast(values, WORDS)
    odd = builder.and_(builder.lshr(bits, _words([16] * COLUMNS)), _words([1] * COLUMNS))
    bits = builder.add(bits, builder.add(odd, _words([0x7FFF] * COLUMNS)))
    # a NaN whose upper half says infinity must not become one, nor wrap around
    nan = builder.fcmp_unordered("uno", values, values)
    bits = builder.select(nan, _words([0x7FC00000] * COLUMNS), bits)
    return builder.and_(bits, _words([0xFFFF0000] * COLUMNS))


def _convert(builder: Any, low: Any, high: Any, interleaved: bool) -> Any:
    """Return two vectors in bfloat16 as one: element by element in pairs, or one behind the other."""
    if rounds_in_hardware():
        # declared with integers, which LLVM replaces by its type bfloat: llvmlite has no such type
        kind = ir.FunctionType(HALVES, [FLOATS, FLOATS])
        name = "llvm.x86.avx512bf16.cvtne2ps2bf16.512"
        both = builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [high, low])
        if interleaved:
            mask = _words([index for k in range(COLUMNS) for index in (k, COLUMNS + k)])
            both = builder.shuffle_vector(both, ir.Constant(HALVES, ir.Undefined), mask)
        return builder.bitcast(both, WORDS)
    low, high = _rounded(builder, low), _rounded(builder, high)
    if not interleaved:
        even, odd = (_words([2 * k + side for k in range(COLUMNS)]) for side in (0, 1))
        low, high = (builder.shuffle_vector(low, high, mask) for mask in (even, odd))
    return builder.or_(builder.lshr(low, _words([16] * COLUMNS)), high)


def _transposed(builder: Any, rows: list[Any]) -> list[Any]:
    # a perfect shuffle of rows i and i + 8, as many times as 16 has bits, is a transpose
    half = COLUMNS // 2
    low = [index for k in range(half) for index in (k, COLUMNS + k)]
    masks = [_words(low), _words([index + half for index in low])]
    for _ in range(COLUMNS.bit_length() - 1):
        rows = [builder.shuffle_vector(rows[i], rows[i + half], mask) for i in range(half) for mask in masks]
    return rows


def _block(along: bool, transposed: bool) -> Any:
    """Make the intrinsic that rounds one whole block: k contiguous or not, as it lies or transposed."""

    @intrinsic
    def emit(typingctx: Any, source: Any, stride: Any, target: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            source, stride, target = args
            lines = []
            for r in range(COLUMNS):
                if along:
                    first = builder.add(source, builder.mul(stride, I64(4 * r)))
                    second = builder.add(first, I64(4 * COLUMNS))
                else:
                    first = builder.add(source, builder.mul(stride, I64(8 * r)))
                    second = builder.add(first, builder.mul(stride, I64(4)))
                lines.append(_convert(builder, _load(builder, first), _load(builder, second), not along))
            if transposed:
                lines = _transposed(builder, lines)
            for r, line in enumerate(lines):
                pointer = builder.inttoptr(builder.add(target, I64(4 * COLUMNS * r)), WORDS.as_pointer())
                builder.store(line, pointer, align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 3), generate

    return emit


_along, _along_transposed = _block(True, False), _block(True, True)
_across, _across_transposed = _block(False, False), _block(False, True)


@compiled(inline=True)
def tiles_along(k: int) -> int:
    """Return how many tiles a depth takes."""
    return (k + DEEP - 1) // DEEP


@compiled(inline=True)
def _round_block(along: bool, transposed: bool, source: int, stride: int, target: int) -> None:
    if along and transposed:
        _along_transposed(source, stride, target)
    elif along:
        _along(source, stride, target)
    elif transposed:
        _across_transposed(source, stride, target)
    else:
        _across(source, stride, target)


@intrinsic
def _read(typingctx: Any, address: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.load(builder.inttoptr(args[0], ir.FloatType().as_pointer()), align=4)

    return types.float32(types.int64), generate


@intrinsic
def _write(typingctx: Any, address: Any, value: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.store(args[1], builder.inttoptr(args[0], ir.FloatType().as_pointer()), align=4)
        return context.get_dummy_value()

    return types.void(types.int64, types.float32), generate


@compiled()
def copy_rows(target: int, target_stride: int, source: int, source_stride: int, rows: int, columns: int) -> None:
    """Copy a rectangle of float32 from address to address; strides are in elements."""
    for i in range(rows):
        target_row, source_row = target + 4 * i * target_stride, source + 4 * i * source_stride
        for j in range(columns):
            _write(target_row + 4 * j, _read(source_row + 4 * j))


@compiled()
def _set_to_zero(target: int, count: int) -> None:
    for j in range(count):
        _write(target + 4 * j, np.float32(0))


def _pack(
    source: int,
    stride: int,
    along: bool,
    as_b: bool,
    lines: int,
    depth: int,
    target: int,
    step: int,
    block: int,
) -> None:
    transposed = along == as_b
    line_bytes, ahead = (4 * stride, 4 * DEEP) if along else (4, 4 * DEEP * stride)
    width = DEEP if along else COLUMNS
    tiles, full_tiles = (depth + DEEP - 1) // DEEP, depth // DEEP
    full_lines = lines // COLUMNS
    if along:
        for t in range(full_lines):
            for d in range(full_tiles):
                source_block = source + t * COLUMNS * line_bytes + d * ahead
                _round_block(along, transposed, source_block, stride, target + t * step + d * TILE_BYTES)
    else:
        # row by row of blocks, so that memory is read in long runs
        for d in range(full_tiles):
            for t in range(full_lines):
                source_block = source + t * COLUMNS * line_bytes + d * ahead
                _round_block(along, transposed, source_block, stride, target + t * step + d * TILE_BYTES)
    for t in range((lines + COLUMNS - 1) // COLUMNS):
        count = min(COLUMNS, lines - t * COLUMNS)
        for d in range(full_tiles if count == COLUMNS else 0, tiles):
            deep = min(DEEP, depth - d * DEEP)
            source_block = source + t * COLUMNS * line_bytes + d * ahead
            _set_to_zero(block, BLOCK)
            if along:
                copy_rows(block, width, source_block, stride, count, deep)
            else:
                copy_rows(block, width, source_block, stride, deep, count)
            _round_block(along, transposed, block, width, target + t * step + d * TILE_BYTES)


_call_pack = by_symbol(_pack, types.void(*[types.int64] * 2, *[types.boolean] * 2, *[types.int64] * 5))


@compiled()
def pack(
    source: int, stride: int, along: bool, as_b: bool, lines: int, depth: int, target: int, step: int, block: int
) -> None:
    """Round a part of a matrix into tiles.

    Parameters
    ----------
    source, stride : int
        Address of the part's first element, and elements between rows of the matrix. It lies as (lines, k), or as
        (k, lines): lines are the rows of A, or the columns of B.
    along : bool
        True: as (lines, k).
    as_b : bool
        The layout wanted: False of A, True of B.
    lines, depth : int
        Lines and elements along k wanted.
    target, step : int
        Address of the first tile, and bytes between the tiles of neighbouring lines. Tiles that follow along k lie one
        behind the other.
    block : int
        Address of scratch, `BLOCK` elements.
    """
    _call_pack((source, stride, along, as_b, lines, depth, target, step, block))
