"""LLVM IR for what Numba cannot express: copies of matrix blocks by whole vectors, and loops in the widest vectors.

Packing is all loads and stores, and a short loop over a slice costs more in its bounds and its remainder than in what
it moves. These move a fixed number of vectors from address to address; callers make sure that both ranges exist.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from capgpu.kernels.cpu.compile import VECTOR_BYTES, compiled
from capgpu.kernels.cpu.gemm_microkernel import ROWS, VECTORS

__all__ = ["LONG", "copy_panel_row", "copy_tile_row", "pasted", "transpose_square", "whole_vectors"]

#: Elements from which on a row is worth loops in the widest vectors; shorter ones lose more at their ends.
LONG = 128

I64 = ir.IntType(64)


def _element(context: Any, signature: Any) -> tuple[Any, int]:
    """Return the element type of the first argument, and how many of it a vector holds."""
    dtype = signature.args[0].dtype
    return context.get_value_type(dtype), VECTOR_BYTES // (dtype.bitwidth // 8)


def _emit_copy(builder: Any, element: Any, lanes: int, target: Any, source: Any, vectors: int) -> None:
    pointer = ir.VectorType(element, lanes).as_pointer()
    target, source = builder.inttoptr(target, pointer), builder.inttoptr(source, pointer)
    align = VECTOR_BYTES // lanes
    loaded = [builder.load(builder.gep(source, [I64(v)]), align=align) for v in range(vectors)]
    for v, vector in enumerate(loaded):
        builder.store(vector, builder.gep(target, [I64(v)]), align=align)


def _copy(rows: bool) -> Any:
    @intrinsic
    def emit(typingctx: Any, like: Any, target: Any, source: Any) -> Any:
        def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            element, lanes = _element(context, signature)
            vectors = -(-ROWS // lanes) if rows else VECTORS
            _emit_copy(builder, element, lanes, args[1], args[2], vectors)
            return context.get_dummy_value()

        return types.void(like, types.intp, types.intp), generate

    return emit


_copy_panel_row = _copy(False)
_copy_tile_row = _copy(True)


@intrinsic
def _transpose_square(typingctx: Any, like: Any, target: Any, step: Any, source: Any, stride: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        element, lanes = _element(context, signature)
        _, target, step, source, stride = args
        align = VECTOR_BYTES // lanes
        vector = ir.VectorType(element, lanes)
        source = builder.inttoptr(source, element.as_pointer())
        target = builder.inttoptr(target, element.as_pointer())
        rows = []
        for r in range(lanes):
            row = builder.gep(source, [builder.mul(stride, I64(r))])
            rows.append(builder.load(builder.bitcast(row, vector.as_pointer()), align=align))
        # A perfect shuffle of rows i and i + lanes / 2, log2(lanes) times, is a transpose: each pass moves the highest
        # bit of the row number r and of the column number c by one place, (r, c) as one number rotated left. For four
        # lanes, with element rc of row r and column c:
        #
        #     loaded           after pass 1     after pass 2
        #     00 01 02 03      00 20 01 21      00 10 20 30      `low` interleaves the first halves of two rows,
        #     10 11 12 13      02 22 03 23      01 11 21 31      `high` the second halves
        #     20 21 22 23      10 30 11 31      02 12 22 32
        #     30 31 32 33      12 32 13 33      03 13 23 33
        half, numbers = lanes // 2, ir.IntType(32)
        low = [index for k in range(half) for index in (k, lanes + k)]
        high = [index + half for index in low]
        masks = [ir.Constant(ir.VectorType(numbers, lanes), [numbers(i) for i in mask]) for mask in (low, high)]
        for _ in range(lanes.bit_length() - 1):
            rows = [builder.shuffle_vector(rows[i], rows[i + half], mask) for i in range(half) for mask in masks]
        for r, row in enumerate(rows):
            target_row = builder.gep(target, [builder.mul(step, I64(r))])
            builder.store(row, builder.bitcast(target_row, vector.as_pointer()), align=align)
        return context.get_dummy_value()

    return types.void(like, *[types.intp] * 4), generate


@intrinsic
def whole_vectors(typingctx: Any) -> Any:
    """Vectorize the loops of the calling function with the processor's widest vectors.

    By default LLVM uses half of the width of AVX-512, since such vectors can slow down the code around them; beside the
    tiles there is none. The function is called, not pasted into its caller, which would lose the attribute.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        attributes = builder.function.attributes
        attributes.add("noinline")
        # past llvmlite's check of the name: it does not know them all
        set.add(attributes, f'"prefer-vector-width"="{8 * VECTOR_BYTES}"')
        return context.get_dummy_value()

    return types.void(), generate


@intrinsic
def pasted(typingctx: Any) -> Any:
    """Inline the calling function into its callers, by LLVM.

    They share what Numba makes of it; ``inline=True`` has Numba infer types and emit code in each of them anew.
    """

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        builder.function.attributes.add("alwaysinline")
        return context.get_dummy_value()

    return types.void(), generate


@compiled(inline=True)
def copy_panel_row(like: Any, target: int, source: int) -> None:
    """Copy one row of a full panel, `PANEL_BYTES` from address to address; `like` has the element type."""
    _copy_panel_row(like, target, source)


@compiled(inline=True)
def copy_tile_row(like: Any, target: int, source: int) -> None:
    """Copy at least `ROWS` elements, in whole vectors: reads and writes up to a vector more."""
    _copy_tile_row(like, target, source)


@compiled(inline=True)
def transpose_square(like: Any, target: int, step: int, source: int, stride: int) -> None:
    """Write the transpose of a square of one vector by as many rows; strides are in elements."""
    _transpose_square(like, target, step, source, stride)
