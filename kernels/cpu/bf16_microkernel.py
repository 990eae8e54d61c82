"""The innermost product of bfloat16 factors with float32 sums: one square of 32 x 32 elements of C at most.

Factors are packed in tiles of 1 KiB. A tile of A holds 16 rows by 32 columns, row by row; a tile of B holds 32 rows by
16 columns, rows in pairs: [pair][column][2]. Tiles that follow each other along k lie one behind the other. Three
units multiply such tiles, and read the same layout:

- AMX (`tdpbf16ps`): four tiles of sums, two of A and two of B are in the processor's tile registers;
- AVX512-BF16 (`vdpbf16ps`): a tile of B by 16 rows of A, sums in 16 vector registers;
- float32 arithmetic, on every processor: both factors of a pair are widened, four rows at a time.

Each element of C is one chain of additions in rising k, which begins at what C holds where the product accumulates: its
bits depend neither on its place in the square nor on how the matrix is shared among threads. They do depend on the
unit.

A thread loads its tile configuration before it multiplies (`begin`), and resets it afterwards (`end`): while tile
registers are in use, each context switch saves 8 KiB. Which unit there is can depend on the process, since Linux has to
permit AMX: compiled code, which is kept on disk, receives the unit as three addresses and calls those.
"""

from __future__ import annotations

import ctypes
import functools
import platform
import sys
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.core import cgutils, config
from numba.extending import intrinsic

from capgpu.kernels.cpu.compile import VECTOR_BYTES
from capgpu.kernels.cpu.symbols import address_of, called_by_symbol

__all__ = ["COLUMNS", "DEEP", "SQUARE", "TILE_BYTES", "Unit", "available_units", "rounds_in_hardware", "unit"]

#: Rows of a tile of A, and columns of one of B; depth of both; bytes.
COLUMNS, DEEP, TILE_BYTES = 16, 32, 1024
#: Rows and columns of what one call of the kernel computes.
SQUARE = 2 * COLUMNS

#: A unit's kernel, and what a thread calls before and after (0: nothing). The kernel takes the address of a tile of A,
#: the bytes to the second one, the same of B, the address of C, elements between its rows, tiles along k, tiles of
#: rows (1 or 2), tiles of columns (1 or 2), and whether to add to C.
Unit = tuple[int, int, int]

I8, I16, I32, I64 = (ir.IntType(bits) for bits in (8, 16, 32, 64))
BYTES = I8.as_pointer()
FLOATS = ir.VectorType(ir.FloatType(), COLUMNS)
WORDS = ir.VectorType(I32, COLUMNS)

#: Rows that the units without tiles compute together: their sums fill half of the vector registers.
ROWS = 16 if VECTOR_BYTES == 64 else 4
#: Linux's number of the call, of the request, and of the tile registers (arch_prctl(2)).
ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA = 158, 0x1023, 18


def _has(feature: str) -> bool:
    """Return whether Numba compiles for a processor with a feature."""
    chosen = config.CPU_FEATURES
    if chosen is not None:
        return f"+{feature}" in chosen.split(",")
    if feature.startswith("avx") and not config.ENABLE_AVX:
        return False  # LLVM ends the process at an instruction that is disabled
    try:
        return bool(llvm.get_host_cpu_features().get(feature, False))
    except RuntimeError:  # llvmlite cannot ask this processor
        return False


def rounds_in_hardware() -> bool:
    """Return whether the processor has instructions that round to bfloat16; they flush subnormal numbers to zero."""
    return _has("avx512bf16")


@functools.cache
def available_units() -> tuple[str, ...]:
    """Return the names of the units that this process can use, the fastest first."""
    units = ["software"]
    if _has("avx512bf16"):
        units.insert(0, "avx512_bf16")
    if _has("amx-bf16") and _has("amx-tile") and _permitted():
        units.insert(0, "amx")
    return tuple(units)


def _permitted() -> bool:
    """Ask Linux for the tile registers; it grants them to all threads of the process."""
    if not sys.platform.startswith("linux") or platform.machine() != "x86_64":
        return False
    return int(ctypes.CDLL(None).syscall(ARCH_PRCTL, REQUEST_PERMISSION, TILE_DATA)) == 0


def unit(name: str | None = None) -> Unit:
    """Return the addresses of a unit's code, by default of the fastest one; it is compiled or loaded if need be.

    Parameters
    ----------
    name : {"amx", "avx512_bf16", "software"}, optional
        One of `available_units`.

    Returns
    -------
    tuple of int
        See `Unit`.
    """
    kernel, begin, end = _SYMBOLS[name or available_units()[0]]
    return address_of(kernel), address_of(begin) if begin else 0, address_of(end) if end else 0


def _pointer(builder: Any, address: Any, *offsets: Any) -> Any:
    for offset in offsets:
        address = builder.add(address, offset)
    return builder.inttoptr(address, BYTES)


def _loop(builder: Any, count: Any, carried: list[Any], body: Any) -> list[Any]:
    """Emit a loop of at least one round; `body` maps the counter and carried values to the next ones."""
    entry, loop = builder.block, builder.append_basic_block("tiles.loop")
    exit_block = builder.append_basic_block("tiles.after")
    builder.branch(loop)
    builder.position_at_end(loop)
    counter = builder.phi(I64)
    running = [builder.phi(value.type) for value in carried]
    following: list[Any] = body(counter, running)
    advanced = builder.add(counter, I64(1))
    last = builder.block
    builder.cbranch(builder.icmp_signed("<", advanced, count), loop, exit_block)
    for phi, first, later in zip([counter, *running], [I64(0), *carried], [advanced, *following], strict=True):
        phi.add_incoming(first, entry)
        phi.add_incoming(later, last)
    builder.position_at_end(exit_block)
    return following


class _Amx:
    """Emits the AMX kernel for one number of tiles of rows and of columns."""

    def __init__(self, builder: Any, tall: int, wide: int) -> None:
        self.builder, self.tall, self.wide = builder, tall, wide

    def emit(self, a: Any, a_step: Any, b: Any, b_step: Any, c: Any, ldc: Any, depth: Any, accumulate: Any) -> None:
        builder = self.builder
        sums = [(i, j) for i in range(self.tall) for j in range(self.wide)]
        row = builder.mul(ldc, I64(4))
        targets = {
            (i, j): _pointer(builder, c, builder.mul(row, I64(COLUMNS * i)), I64(4 * COLUMNS * j)) for i, j in sums
        }
        with builder.if_else(builder.icmp_signed("!=", accumulate, I64(0))) as (add, store):
            with add:
                for i, j in sums:
                    self._instruction("tileloadd64", 2 * i + j, targets[i, j], row)
            with store:
                for i, j in sums:
                    self._instruction("tilezero", 2 * i + j)

        def body(step: Any, _: list[Any]) -> list[Any]:
            along = builder.mul(step, I64(TILE_BYTES))
            for i in range(self.tall):
                source = _pointer(builder, a, along, *[a_step] * i)
                self._instruction("tileloadd64", 4 + i, source, I64(64))
            for j in range(self.wide):
                self._instruction("tileloadd64", 6 + j, _pointer(builder, b, along, *[b_step] * j), I64(64))
            for i, j in sums:
                self._instruction("tdpbf16ps", 2 * i + j, I8(4 + i), I8(6 + j))
            return []

        _loop(builder, depth, [], body)
        for i, j in sums:
            self._instruction("tilestored64", 2 * i + j, targets[i, j], row)

    def _instruction(self, name: str, tile: int, *operands: Any) -> None:
        kind = ir.FunctionType(ir.VoidType(), [I8, *(operand.type for operand in operands)])
        function = cgutils.get_or_insert_function(self.builder.module, kind, f"llvm.x86.{name}")
        self.builder.call(function, [I8(tile), *operands])


@intrinsic
def _amx_tiles(
    typingctx: Any,
    a: Any,
    a_step: Any,
    b: Any,
    b_step: Any,
    c: Any,
    ldc: Any,
    depth: Any,
    tall: Any,
    wide: Any,
    add: Any,
) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        a, a_step, b, b_step, c, ldc, depth, tall, wide, accumulate = args
        done = builder.append_basic_block("tiles.done")
        switch = builder.switch(builder.add(builder.mul(tall, I64(2)), wide), done)
        for rows in (1, 2):
            for columns in (1, 2):
                block = builder.append_basic_block("tiles.case")
                switch.add_case(I64(2 * rows + columns), block)
                builder.position_at_end(block)
                _Amx(builder, rows, columns).emit(a, a_step, b, b_step, c, ldc, depth, accumulate)
                builder.branch(done)
        builder.position_at_end(done)
        return context.get_dummy_value()

    return types.void(*[types.int64] * 10), generate


def _amx(
    a: int, a_step: int, b: int, b_step: int, c: int, ldc: int, depth: int, tall: int, wide: int, add: int
) -> None:
    _amx_tiles(a, a_step, b, b_step, c, ldc, depth, tall, wide, add)


@intrinsic
def _configure(typingctx: Any) -> Any:
    """Load the tile configuration: eight tiles of 16 rows of 64 bytes."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        palette, widths, heights = 1, [64, 0] * 8 + [0] * 16, [16] * 8 + [0] * 8
        content = [palette, *[0] * 15, *widths, *heights]
        kind = ir.ArrayType(I8, len(content))
        constant = cgutils.global_constant(builder, "capgpu.tiles", ir.Constant(kind, [I8(value) for value in content]))
        load = ir.FunctionType(ir.VoidType(), [BYTES])
        function = cgutils.get_or_insert_function(builder.module, load, "llvm.x86.ldtilecfg")
        builder.call(function, [builder.bitcast(constant, BYTES)])
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def _release(typingctx: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.tilerelease"), [])
        return context.get_dummy_value()

    return types.void(), generate


def _begin_amx() -> None:
    _configure()


def _end_amx() -> None:
    _release()


def _dot_product(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """Add the products of pairs by AVX512-BF16's instruction."""
    # declared with integers, which LLVM replaces by its type bfloat: llvmlite has no such type
    kind = ir.FunctionType(FLOATS, [FLOATS, WORDS, WORDS])
    name = "llvm.x86.avx512bf16.dpbf16ps.512"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, name), [total, a, b])


def _widened_products(builder: Any, total: Any, a: Any, b: Any) -> Any:
    """Add the products of pairs in float32: the factors of even k, then those of odd k."""
    multiply_add = builder.module.declare_intrinsic(
        f"llvm.fmuladd.v{COLUMNS}f32", (), ir.FunctionType(FLOATS, [FLOATS] * 3)
    )
    sixteen = ir.Constant(WORDS, [16] * COLUMNS)
    upper = ir.Constant(WORDS, [0xFFFF0000] * COLUMNS)
    even, odd = [builder.shl(word, sixteen) for word in (a, b)], [builder.and_(word, upper) for word in (a, b)]
    for words in (even, odd):
        factors = [builder.bitcast(word, FLOATS) for word in words]
        total = builder.call(multiply_add, [*factors, total])
    return total


def _vector_tiles(products: Any) -> Any:
    """Make the intrinsic that multiplies `ROWS` rows of A by one tile's columns of B."""

    @intrinsic
    def emit(typingctx: Any, a: Any, b: Any, c: Any, ldc: Any, depth: Any, accumulate: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            a, b, c, ldc, depth, accumulate = args
            row = builder.mul(ldc, I64(4))
            targets = [
                builder.bitcast(_pointer(builder, c, builder.mul(row, I64(r))), FLOATS.as_pointer())
                for r in range(ROWS)
            ]
            adds = builder.icmp_signed("!=", accumulate, I64(0))
            zero = ir.Constant(FLOATS, [0.0] * COLUMNS)
            first = [builder.select(adds, builder.load(target, align=4), zero) for target in targets]

            def body(pair: Any, running: list[Any]) -> list[Any]:
                source = builder.bitcast(_pointer(builder, b, builder.mul(pair, I64(64))), WORDS.as_pointer())
                columns = builder.load(source, align=4)
                # tiles of A are 1 KiB apart along k; a row of one has 16 pairs
                tile, within = builder.lshr(pair, I64(4)), builder.and_(pair, I64(15))
                along = builder.add(builder.mul(tile, I64(TILE_BYTES)), builder.mul(within, I64(4)))
                following = []
                for r, total in enumerate(running):
                    pair_of_a = builder.bitcast(_pointer(builder, a, along, I64(64 * r)), I32.as_pointer())
                    lane = builder.insert_element(
                        ir.Constant(WORDS, ir.Undefined), builder.load(pair_of_a, align=4), I32(0)
                    )
                    broadcast = builder.shuffle_vector(
                        lane, ir.Constant(WORDS, ir.Undefined), ir.Constant(WORDS, [0] * COLUMNS)
                    )
                    following.append(products(builder, total, broadcast, columns))
                return following

            sums = _loop(builder, builder.mul(depth, I64(DEEP // 2)), first, body)
            for target, total in zip(targets, sums, strict=True):
                builder.store(total, target, align=4)
            return context.get_dummy_value()

        return types.void(*[types.int64] * 6), generate

    return emit


_dot_product_rows, _widened_rows = _vector_tiles(_dot_product), _vector_tiles(_widened_products)


def _avx512(
    a: int, a_step: int, b: int, b_step: int, c: int, ldc: int, depth: int, tall: int, wide: int, add: int
) -> None:
    for i in range(tall):
        for j in range(wide):
            for r in range(0, COLUMNS, ROWS):
                target = c + 4 * ((i * COLUMNS + r) * ldc + j * COLUMNS)
                _dot_product_rows(a + i * a_step + 64 * r, b + j * b_step, target, ldc, depth, add)


def _software(
    a: int, a_step: int, b: int, b_step: int, c: int, ldc: int, depth: int, tall: int, wide: int, add: int
) -> None:
    for i in range(tall):
        for j in range(wide):
            for r in range(0, COLUMNS, ROWS):
                target = c + 4 * ((i * COLUMNS + r) * ldc + j * COLUMNS)
                _widened_rows(a + i * a_step + 64 * r, b + j * b_step, target, ldc, depth, add)


_TILES, _NOTHING = types.void(*[types.int64] * 10), types.void()
_SYMBOLS = {
    "amx": (
        called_by_symbol(_amx, _TILES),
        called_by_symbol(_begin_amx, _NOTHING),
        called_by_symbol(_end_amx, _NOTHING),
    ),
    "avx512_bf16": (called_by_symbol(_avx512, _TILES), "", ""),
    "software": (called_by_symbol(_software, _TILES), "", ""),
}
