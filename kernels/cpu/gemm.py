"""Matrix products on the host: panels of B are packed, tiles of C are computed from registers.

C (m, n) = op(A) (m, k) op(B) (k, n), where op is nothing or the transpose. A panel is two vectors of columns wide
and at most `DEPTH` deep, so that it stays in the first cache levels while all rows of A pass by it. The tasks of one
product are independent column (or row) ranges: no barriers, and the same bits for any number of threads.

The loops of one task, and where their operands stay (bytes of float32 with AVX-512: 16 elements in a vector, tiles of
12 x 32, panels of 32 columns)::

    rows of C            all; at most CHUNK with a transposed A, which is packed [tile][k][row of the tile]
      block of k         equal parts of at most DEPTH, in rising order: later ones are added to C
        group            GROUP panels of B, packed [panel][k][column]:         16 x 80 KiB   second cache level
          strip          STRIP tiles of rows of A:                              2 x 30 KiB   first and second
            panel        k x 32 of B                                                80 KiB   second, prefetched
              tile       12 x 32 of C                                         24 registers   `gemm_microkernel`

                    n: columns of B and C
                 +------+------+------+--         One panel is used by all tiles of a strip before the next panel is
          block  |panel |panel |panel |           read; a strip is used by all panels of a group before the next strip.
          of k   |  0   |  1   |  2   |           So B is packed once per task (once per CHUNK rows of a transposed A),
                 +------+------+------+--         and A is read once per group.
        block
        of k         v
      +------+   +------+------+------+--
    m |tile 0| > |  C   |  C   |  C   |           Rows are cut into tiles whose heights differ by at most one, since in
      |tile 1|   | tile |      |      |           a last tile of few rows the arithmetic units would wait.
      +------+   +------+------+------+--

GROUP and STRIP were 8 and 20 until commit caf168b. With 16 and 2, packing by whole vectors and a prefetched C, the
speed relative to MKL rose from 0.81 to 0.99 (transposed factors) and from 0.82 to 1.0 (wide results) on a Xeon with
48 KiB and 2 MiB of cache per core. DEPTH and CHUNK follow from the sizes above; no measurement of other values is
recorded.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numba import types

from capgpu.kernels.contract import Precision, check_precision
from capgpu.kernels.cpu.compile import VECTOR_BYTES, compiled
from capgpu.kernels.cpu.gemm_microkernel import PANEL_BYTES, ROWS, tile
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.simd_pack import copy_panel_row, copy_tile_row, transpose_square
from capgpu.kernels.cpu.symbols import by_symbol
from capgpu.kernels.cpu.task_memory import allocate, release
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous
from capgpu.kernels.loading import imported

__all__ = [
    "BIAS",
    "DEPTH",
    "KEEP",
    "NOTHING",
    "Product",
    "matmul",
    "pack_columns_whole",
    "pack_panels",
    "product_into",
    "product_with_packed",
    "set_rows",
]

#: Greatest depth of a packed panel: 80 KiB at two AVX-512 vectors.
DEPTH = 640
#: Panels of B, and tiles of A, that are processed together: in the second cache level, and in the first.
GROUP, STRIP = 16, 2
#: Rows of a transposed A that are packed together.
RUN = 16
#: Greatest number of columns of a transposed A (rows of C) that are packed at once: otherwise the packed A would be as
#: large as A.
CHUNK = 2048
#: Below this many multiply-adds, waking a second thread costs more than it gains.
WORTH_SHARING = 5_000_000
#: What a product is added to.
NOTHING, BIAS, KEEP = 0, 1, 2


@compiled()
def _pack_transposed(B: Any, first_row: int, depth: int, first_column: int, panel: Any) -> None:
    """Transpose a full panel, a square of vectors at a time."""
    size, ld = B.itemsize, B.shape[1]
    lanes, side = PANEL_BYTES // size, VECTOR_BYTES // size
    squared = depth // side * side
    for k in range(0, squared, side):
        for j in range(0, lanes, side):
            source = B.ctypes.data + ((first_column + j) * ld + first_row + k) * size
            transpose_square(B, panel.ctypes.data + (k * lanes + j) * size, lanes, source, ld)
    for k in range(squared, depth):
        for j in range(lanes):
            panel[k * lanes + j] = B[first_column + j, first_row + k]


@compiled()
def _pack_narrow(
    B: Any, transposed: bool, first_row: int, depth: int, first_column: int, width: int, panel: Any
) -> None:
    """Pack a panel that is narrower than others, and fill it up with zeros."""
    lanes = PANEL_BYTES // B.itemsize
    panel[:] = 0
    for k in range(depth):
        for j in range(width):
            row, column = first_row + k, first_column + j
            panel[k * lanes + j] = B[column, row] if transposed else B[row, column]


def _pack_panels(
    B: Any,
    transposed: bool,
    first_row: int,
    depth: int,
    first_column: int,
    columns: int,
    first: int,
    last: int,
    packed: Any,
    offset: int,
) -> None:
    size = B.itemsize
    lanes = PANEL_BYTES // size
    full = min(last, columns // lanes)
    target, ld = packed.ctypes.data + offset * size, B.shape[1]
    if transposed:
        for p in range(first, full):
            begin = offset + (p - first) * depth * lanes
            panel = packed[begin : begin + depth * lanes]
            _pack_transposed(B, first_row, depth, first_column + p * lanes, panel)
    else:
        # row by row, so that memory is read in long runs
        for k in range(depth):
            source = B.ctypes.data + ((first_row + k) * ld + first_column + first * lanes) * size
            for p in range(full - first):
                copy_panel_row(B, target + (p * depth + k) * PANEL_BYTES, source + p * PANEL_BYTES)
    if full < last:
        begin = offset + (full - first) * depth * lanes
        panel = packed[begin : begin + depth * lanes]
        _pack_narrow(B, transposed, first_row, depth, first_column + full * lanes, columns - full * lanes, panel)


def _signatures(*kinds: Any) -> list[Any]:
    """Return signatures for float32 and float64, in which a number stands for an array of as many dimensions."""
    return [
        types.void(*(types.Array(element, kind, "C") if isinstance(kind, int) else kind for kind in kinds))
        for element in (types.float32, types.float64)
    ]


# What all products and recurrences do is compiled once, not into each of them.
_call_pack_panels = by_symbol(_pack_panels, *_signatures(2, types.boolean, *[types.int64] * 6, 1, types.int64))


@compiled()
def pack_panels(
    B: Any,
    transposed: bool,
    first_row: int,
    depth: int,
    first_column: int,
    columns: int,
    first: int,
    last: int,
    packed: Any,
    offset: int,
) -> None:
    """Copy panels first..last-1 of the `columns` columns of op(B) from `first_column` on, `depth` rows.

    Element (k, j) of panel p goes to ``packed[offset + ((p - first) * depth + k) * lanes + j]``; a narrow last panel is
    filled up with zeros.
    """
    _call_pack_panels((B, transposed, first_row, depth, first_column, columns, first, last, packed, offset))


@compiled(inline=True)
def _tiles(rows: int) -> int:
    """Return how many tiles a run of rows is cut into; tile t covers rows ``rows * t // tiles`` and on."""
    return (rows + ROWS - 1) // ROWS


@compiled(inline=True)
def _blocks(k: int) -> int:
    """Return how many blocks of even depth, at most `DEPTH`, a sum is cut into."""
    return (k + DEPTH - 1) // DEPTH


@compiled()
def _pack_columns(A: Any, first_row: int, depth: int, first_column: int, columns: int, packed: Any) -> None:
    """Copy a block of A (k, m) into tiles ``[k][height]``, in the order in which `_multiply_panel` takes them.

    A column beyond the last of A is one of ones.
    """
    tiles = _tiles(columns)
    size = A.itemsize
    vector = VECTOR_BYTES // size
    copied = (ROWS + vector - 1) // vector * vector
    last_source = A.ctypes.data + (A.size - copied) * size
    # a strip of rows of A, so that it is read in long runs and once
    for strip in range(0, depth, RUN):
        strip_end = min(strip + RUN, depth)
        for t in range(tiles):
            first = columns * t // tiles
            height = columns * (t + 1) // tiles - first
            for k in range(strip, strip_end):
                offset = first * depth + k * height
                source = A.ctypes.data + ((first_row + k) * A.shape[1] + first_column + first) * size
                # what is copied too much goes where the tile's next rows will be
                is_inside = first_column + first + height <= A.shape[1]
                if is_inside and offset + copied <= (first + height) * depth and source <= last_source:
                    copy_tile_row(A, packed.ctypes.data + offset * size, source)
                else:
                    for r in range(height):
                        column = first_column + first + r
                        packed[offset + r] = A[first_row + k, column] if column < A.shape[1] else 1


class _Rows(NamedTuple):
    """Rows of A: `stride` elements apart as they lie, or in tiles that `_pack_columns` packed."""

    address: int
    stride: int
    n_rows: int
    are_packed: bool


@compiled()
def _multiply_panel(
    rows: _Rows,
    first_tile: int,
    last_tile: int,
    depth: int,
    panel: int,
    C: Any,
    c: int,
    width: int,
    accumulate: int,
    scratch: Any,
) -> None:
    """Multiply tiles first_tile..last_tile-1 of rows of A by one panel into `width` columns of C (address `c`)."""
    size, ldc = C.itemsize, C.shape[1]
    lanes = PANEL_BYTES // size
    tiles = _tiles(rows.n_rows)
    aside = scratch.ctypes.data + 0  # signed, as c is: `tile` would be compiled for both
    for t in range(first_tile, last_tile):
        first = rows.n_rows * t // tiles
        height = rows.n_rows * (t + 1) // tiles - first
        a = rows.address + first * (depth if rows.are_packed else rows.stride) * size
        stride = height if rows.are_packed else rows.stride
        if width == lanes:
            tile(C, a, stride, panel, c + first * ldc * size, ldc, depth, height, rows.are_packed, accumulate)
        else:
            # a panel wider than the remaining columns of C is computed aside
            tile(C, a, stride, panel, aside, lanes, depth, height, rows.are_packed, 0)
            _add_narrow(C, c + first * ldc * size, height, width, accumulate, scratch)


@compiled()
def _add_narrow(C: Any, c: int, height: int, width: int, accumulate: int, scratch: Any) -> None:
    """Add or copy `width` columns of a tile that has been computed in `scratch` to C."""
    lanes, ldc = PANEL_BYTES // C.itemsize, C.shape[1]
    first = (c - C.ctypes.data) // C.itemsize
    row, column = first // ldc, first % ldc
    for i in range(height):
        source, target = scratch[i * lanes : i * lanes + width], C[row + i, column : column + width]
        if accumulate:
            for j in range(target.size):
                target[j] += source[j]
        else:
            for j in range(target.size):
                target[j] = source[j]


@compiled()
def set_rows(C: Any, first_row: int, last_row: int, first_column: int, last_column: int, bias: Any) -> None:
    """Copy a bias to rows first_row..last_row-1 of C, of columns first_column..last_column-1."""
    source = bias[first_column:last_column]
    for i in range(first_row, last_row):
        target = C[i, first_column:last_column]
        for j in range(target.size):
            target[j] = source[j]


class Product(NamedTuple):
    """Operands of a product, all arrays contiguous."""

    by_rows: bool  # whether tasks share the rows of C, not the columns
    A: Any  # (m, k), or (k, m) where it is transposed
    a_transposed: bool
    B: Any  # (k, n), or (n, k)
    b_transposed: bool
    bias: Any  # (n,)
    initial: int  # what the product is added to: NOTHING, BIAS or KEEP
    C: Any  # (m, n)


@parallel_job(operands=Product)
def _multiply(index: int, count: int, product: Product) -> None:
    """Compute some rows or columns of a product."""
    by_rows, A, a_transposed, B, b_transposed, bias, initial, C = product
    m, n = C.shape
    k = A.shape[0] if a_transposed else A.shape[1]
    size = C.itemsize
    lanes = PANEL_BYTES // size
    panels = (n + lanes - 1) // lanes
    first_row, last_row, first_panel, last_panel = 0, m, 0, panels
    if by_rows:
        first_row, last_row = m * index // count, m * (index + 1) // count
    else:
        first_panel, last_panel = panels * index // count, panels * (index + 1) // count
    if first_row == last_row or first_panel == last_panel:
        return
    first_column, last_column = first_panel * lanes, min(n, last_panel * lanes)
    if initial == BIAS:
        set_rows(C, first_row, last_row, first_column, last_column, bias)
    elif k == 0 and initial == NOTHING:
        C[first_row:last_row, first_column:last_column] = 0
    lda = A.shape[1]
    max_rows = min(last_row - first_row, CHUNK) if a_transposed else last_row - first_row
    blocks = _blocks(k)
    max_depth = (k + blocks - 1) // blocks if blocks else 0
    group = min(GROUP, last_panel - first_panel)
    ends = group * max_depth * lanes, (group * max_depth + ROWS) * lanes
    memory = allocate(ends[1] + (max_depth * max_rows if a_transposed else 1), C)
    packed, scratch, packed_columns = memory[: ends[0]], memory[ends[0] : ends[1]], memory[ends[1] :]
    for row in range(first_row, last_row, max_rows):
        n_rows = min(max_rows, last_row - row)
        tiles = _tiles(n_rows)
        for block in range(blocks):
            top = k * block // blocks
            depth = k * (block + 1) // blocks - top
            accumulate = 0 if initial == NOTHING and block == 0 else 1
            if a_transposed:
                _pack_columns(A, top, depth, row, n_rows, packed_columns)
                # Numba's addresses are unsigned and sums with them are not; of both types it would make float64
                a = packed_columns.ctypes.data + 0
            else:
                a = A.ctypes.data + (row * lda + top) * size
            rows = _Rows(a, lda, n_rows, a_transposed)
            # a group of panels and a strip of rows share the second cache level
            for first in range(first_panel, last_panel, group):
                last = min(first + group, last_panel)
                pack_panels(B, b_transposed, top, depth, 0, n, first, last, packed, 0)
                for strip in range(0, tiles, STRIP):
                    for p in range(first, last):
                        panel = packed.ctypes.data + (p - first) * depth * lanes * size
                        c = C.ctypes.data + (row * n + p * lanes) * size
                        width, strip_end = min(lanes, n - p * lanes), min(strip + STRIP, tiles)
                        _multiply_panel(rows, strip, strip_end, depth, panel, C, c, width, accumulate, scratch)
    release(memory)


@compiled()
def pack_columns_whole(B: Any, transposed: bool, first_column: int, columns: int, packed: Any, offset: int) -> None:
    """Pack some columns of op(B) whole: blocks of `DEPTH` rows, each a run of panels."""
    k = B.shape[1] if transposed else B.shape[0]
    lanes = PANEL_BYTES // B.itemsize
    panels = (columns + lanes - 1) // lanes
    blocks = _blocks(k)
    for block in range(blocks):
        top = k * block // blocks
        depth = k * (block + 1) // blocks - top
        for first in range(0, panels, GROUP):
            last, group_offset = min(first + GROUP, panels), offset + (top * panels + first * depth) * lanes
            pack_panels(B, transposed, top, depth, first_column, columns, first, last, packed, group_offset)


def _product_with_packed(
    A: Any, packed: Any, offset: int, C: Any, first_column: int, columns: int, adds: bool, scratch: Any
) -> None:
    size = C.itemsize
    n_rows, k = A.shape
    lanes = PANEL_BYTES // size
    panels = (columns + lanes - 1) // lanes
    blocks = _blocks(k)
    for block in range(blocks):
        top = k * block // blocks
        depth = k * (block + 1) // blocks - top
        rows = _Rows(A.ctypes.data + top * size, k, n_rows, False)
        for p in range(panels):
            panel = packed.ctypes.data + (offset + (top * panels + p * depth) * lanes) * size
            c = C.ctypes.data + (first_column + p * lanes) * size
            accumulate, width = 1 if adds or block > 0 else 0, min(lanes, columns - p * lanes)
            _multiply_panel(rows, 0, _tiles(n_rows), depth, panel, C, c, width, accumulate, scratch)


_call_product_with_packed = by_symbol(
    _product_with_packed, *_signatures(2, 1, types.int64, 2, types.int64, types.int64, types.boolean, 1)
)


@compiled()
def product_with_packed(
    A: Any, packed: Any, offset: int, C: Any, first_column: int, columns: int, adds: bool, scratch: Any
) -> None:
    """Multiply A by what `pack_columns_whole` packed, into columns of the contiguous rows C, or add it to them.

    `scratch` has `ROWS` rows of a panel.
    """
    _call_product_with_packed((A, packed, offset, C, first_column, columns, adds, scratch))


def product_into(
    out: Any,
    a: Any,
    b: Any,
    bias: Any = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
    precision: Precision = "float32",
) -> None:
    """Compute ``op(a) op(b) + bias`` into a contiguous array, or add it to what is there.

    Parameters
    ----------
    out : numpy.ndarray, shape (m, n)
        The result; must not overlap the factors. With `transpose_a` it may have a row more, which gets the sums of
        the rows of `b`: a bias's gradient beside its weights'. Not with ``"bf16"``: a bias's gradient is not rounded.
    a, b : numpy.ndarray
        Contiguous factors, shapes (m, k) and (k, n), or (k, m) and (n, k) where transposed.
    bias : numpy.ndarray, shape (n,), optional
        Added to every row; not together with `accumulate`.
    transpose_a, transpose_b : bool
        Take the transpose of a factor as it lies.
    accumulate : bool
        Add to `out`.
    precision : {"float32", "bf16"}
        How the factors are read.
    """
    if precision == "bf16":
        # imported here: nothing of it is compiled where it is not asked for
        imported("capgpu.kernels.cpu.bf16_gemm").product_into(
            out, a, b, bias, transpose_a=transpose_a, transpose_b=transpose_b, accumulate=accumulate
        )
        return
    m, n = out.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    initial = KEEP if accumulate else NOTHING if bias is None else BIAS
    n_tasks = POOL.n_threads if m * n * k >= WORTH_SHARING else 1
    # by rows where columns are too few to share, and where each task would pack all of a transposed A again
    by_rows = m > n and (n < 4 * (PANEL_BYTES // out.itemsize) * n_tasks or (transpose_a and m > 4 * n))
    product = Product(by_rows, a, transpose_a, b, transpose_b, out[0] if bias is None else bias, initial, out)
    POOL.run(n_tasks, _multiply, *product)


def matmul(
    a: Any,
    b: Any,
    bias: Any = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    precision: Precision = "float32",
) -> Any:
    """Multiply two matrices; see `capgpu.kernels.reference.matmul`."""
    check_precision(precision, a.dtype)
    a, b = contiguous(a), contiguous(b)
    out = np.empty((a.shape[transpose_a], b.shape[not transpose_b]), dtype=a.dtype)
    if out.size:
        bias = None if bias is None else contiguous(bias)
        product_into(out, a, b, bias, transpose_a=transpose_a, transpose_b=transpose_b, precision=precision)
    return out
