"""Matrix products on the host: panels of B are packed, tiles of C are computed from registers.

C (m, n) = op(A) (m, k) op(B) (k, n), where op is nothing or the transpose. A panel is two vectors of columns wide
and at most `DEPTH` deep, so that it stays in the first cache levels while all rows of A pass by it. Shares of one
product are independent column (or row) ranges: no barriers, and the same bits for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import types

from capgpu.kernels.contract import Precision, check_precision
from capgpu.kernels.cpu.compile import VECTOR_BYTES, compiled
from capgpu.kernels.cpu.gemm_microkernel import PANEL_BYTES, ROWS, tile
from capgpu.kernels.cpu.job_slot import run_job
from capgpu.kernels.cpu.simd_pack import copy_panel_row, copy_tile_row, transpose_square
from capgpu.kernels.cpu.symbols import by_symbol
from capgpu.kernels.cpu.task_code import describe_job
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous
from capgpu.kernels.loading import imported

__all__ = [
    "BIAS",
    "DEPTH",
    "KEEP",
    "NOTHING",
    "aligned",
    "matmul",
    "pack_columns_whole",
    "pack_panels",
    "product_into",
    "product_with_packed",
]

#: Greatest depth of a packed panel: 80 KiB at two AVX-512 vectors.
DEPTH = 640
#: Panels of B, and tiles of A, that are worked on together: in the second cache level, and in the first.
GROUP, STRIP = 16, 2
#: Rows of a transposed A that are packed together.
RUN = 16
#: Most columns of a transposed A (rows of C) that are packed at once: otherwise the packed A would be as large as A.
CHUNK = 2048
#: Below this many multiply-adds, waking a second thread costs more than it gains.
WORTH_SHARING = 5_000_000
#: What a product is added to.
NOTHING, BIAS, KEEP = 0, 1, 2


@compiled(allocates=False)
def _pack_transposed(B: Any, row: int, depth: int, column: int, panel: Any) -> None:
    """Transpose a full panel, a square of vectors at a time."""
    size, ld = B.itemsize, B.shape[1]
    lanes, side = PANEL_BYTES // size, VECTOR_BYTES // size
    squared = depth // side * side
    for k in range(0, squared, side):
        for j in range(0, lanes, side):
            source = B.ctypes.data + ((column + j) * ld + row + k) * size
            transpose_square(B, panel.ctypes.data + (k * lanes + j) * size, lanes, source, ld)
    for k in range(squared, depth):
        for j in range(lanes):
            panel[k * lanes + j] = B[column + j, row + k]


@compiled(allocates=False)
def _pack_narrow(B: Any, transposed: bool, row: int, depth: int, column: int, width: int, panel: Any) -> None:
    lanes = PANEL_BYTES // B.itemsize
    panel[:] = 0
    for k in range(depth):
        for j in range(width):
            panel[k * lanes + j] = B[column + j, row + k] if transposed else B[row + k, column + j]


def _pack_panels(
    B: Any,
    transposed: bool,
    row: int,
    depth: int,
    left: int,
    columns: int,
    first: int,
    last: int,
    packed: Any,
    start: int,
) -> None:
    size = B.itemsize
    lanes = PANEL_BYTES // size
    full = min(last, columns // lanes)
    target, ld = packed.ctypes.data + start * size, B.shape[1]
    if transposed:
        for p in range(first, full):
            place = start + (p - first) * depth * lanes
            _pack_transposed(B, row, depth, left + p * lanes, packed[place : place + depth * lanes])
    else:
        # row by row, so that memory is read in long runs
        for k in range(depth):
            source = B.ctypes.data + ((row + k) * ld + left + first * lanes) * size
            for p in range(full - first):
                copy_panel_row(B, target + (p * depth + k) * PANEL_BYTES, source + p * PANEL_BYTES)
    if full < last:
        place = start + (full - first) * depth * lanes
        panel = packed[place : place + depth * lanes]
        _pack_narrow(B, transposed, row, depth, left + full * lanes, columns - full * lanes, panel)


def _signatures(*kinds: Any) -> list[Any]:
    """Return signatures for float32 and float64, in which a number stands for an array of as many dimensions."""
    return [
        types.void(*(types.Array(element, kind, "C") if isinstance(kind, int) else kind for kind in kinds))
        for element in (types.float32, types.float64)
    ]


# What all products and recurrences do is compiled once, not into each of them.
_call_pack_panels = by_symbol(_pack_panels, *_signatures(2, types.boolean, *[types.int64] * 6, 1, types.int64))


@compiled(allocates=False)
def pack_panels(
    B: Any,
    transposed: bool,
    row: int,
    depth: int,
    left: int,
    columns: int,
    first: int,
    last: int,
    packed: Any,
    start: int,
) -> None:
    """Copy panels first..last-1 of the `columns` columns of op(B) from `left` on.

    Element (k, j) of panel p goes to ``packed[start + ((p - first) * depth + k) * lanes + j]``; a narrow last panel is
    filled up with zeros.
    """
    _call_pack_panels((B, transposed, row, depth, left, columns, first, last, packed, start))


@compiled()
def aligned(size: int, like: Any) -> Any:
    """Return scratch of `size` elements that starts on a cache line."""
    raw = np.empty(size + 64 // like.itemsize, like.dtype)
    offset = (-raw.ctypes.data) % 64 // like.itemsize
    return raw[offset : offset + size]


@compiled(inline=True)
def _tiles(rows: int) -> int:
    """Return how many tiles a run of rows is cut into; tile t covers rows ``rows * t // tiles`` and on."""
    return (rows + ROWS - 1) // ROWS


@compiled(inline=True)
def _blocks(k: int) -> int:
    """Return how many blocks of even depth, at most `DEPTH`, a sum is cut into."""
    return (k + DEPTH - 1) // DEPTH


@compiled(allocates=False)
def _pack_columns(A: Any, row: int, depth: int, column: int, count: int, packed: Any) -> None:
    """Copy a block of A (k, m) into tiles ``[k][height]``, in the order in which `_rows_by_panel` takes them.

    A column beyond the last of A is one of ones.
    """
    tiles = _tiles(count)
    size = A.itemsize
    vector = VECTOR_BYTES // size
    copied = (ROWS + vector - 1) // vector * vector
    end = A.ctypes.data + (A.size - copied) * size
    # a strip of rows of A, so that it is read in long runs and once
    for strip in range(0, depth, RUN):
        stop = min(strip + RUN, depth)
        for t in range(tiles):
            first = count * t // tiles
            height = count * (t + 1) // tiles - first
            for k in range(strip, stop):
                place = first * depth + k * height
                source = A.ctypes.data + ((row + k) * A.shape[1] + column + first) * size
                # what is copied too much goes where the tile's next rows will be
                there = column + first + height <= A.shape[1]
                if there and place + copied <= (first + height) * depth and source <= end:
                    copy_tile_row(A, packed.ctypes.data + place * size, source)
                else:
                    for r in range(height):
                        packed[place + r] = A[row + k, column + first + r] if column + first + r < A.shape[1] else 1


@compiled(allocates=False)
def _rows_by_panel(
    A: Any,
    packed_tiles: bool,
    a: int,
    lda: int,
    rows: int,
    tile_start: int,
    tile_stop: int,
    depth: int,
    panel: int,
    C: Any,
    c: int,
    ldc: int,
    width: int,
    accumulate: int,
    edge: Any,
) -> None:
    """Multiply some tiles of `rows` rows of A (address `a`) by one panel into C (address `c`).

    A lies either in rows `lda` apart or in tiles packed by `_pack_columns`.
    """
    size = A.itemsize
    lanes = PANEL_BYTES // size
    tiles = _tiles(rows)
    aside = edge.ctypes.data + 0  # signed, as c is: `tile` would be compiled for both
    for t in range(tile_start, tile_stop):
        row = rows * t // tiles
        height = rows * (t + 1) // tiles - row
        here = a + row * (depth if packed_tiles else lda) * size
        step = height if packed_tiles else lda
        if width == lanes:
            tile(A, here, step, panel, c + row * ldc * size, ldc, depth, height, packed_tiles, accumulate)
        else:
            # a panel wider than what is left of C is computed aside
            tile(A, here, step, panel, aside, lanes, depth, height, packed_tiles, 0)
            _add_edge(C, c + row * ldc * size, ldc, height, width, accumulate, edge)


@compiled(allocates=False)
def _add_edge(C: Any, c: int, ldc: int, height: int, width: int, accumulate: int, edge: Any) -> None:
    lanes = PANEL_BYTES // C.itemsize
    first = (c - C.ctypes.data) // C.itemsize
    row, column = first // ldc, first % ldc
    for i in range(height):
        source, target = edge[i * lanes : i * lanes + width], C[row + i, column : column + width]
        if accumulate:
            for j in range(target.size):
                target[j] += source[j]
        else:
            for j in range(target.size):
                target[j] = source[j]


@compiled(allocates=False)
def _set_rows(C: Any, start: int, stop: int, left: int, right: int, bias: Any) -> None:
    source = bias[left:right]
    for i in range(start, stop):
        target = C[i, left:right]
        for j in range(target.size):
            target[j] = source[j]


@compiled()
def _share(
    index: int,
    count: int,
    by_rows: bool,
    A: Any,
    a_transposed: bool,
    B: Any,
    b_transposed: bool,
    bias: Any,
    start: int,
    C: Any,
) -> None:
    """Compute one of `count` shares of a product."""
    m, n = C.shape
    k = A.shape[0] if a_transposed else A.shape[1]
    lanes = PANEL_BYTES // C.itemsize
    panels = (n + lanes - 1) // lanes
    row_start, row_stop, panel_start, panel_stop = 0, m, 0, panels
    if by_rows:
        row_start, row_stop = m * index // count, m * (index + 1) // count
    else:
        panel_start, panel_stop = panels * index // count, panels * (index + 1) // count
    if row_start == row_stop or panel_start == panel_stop:
        return
    left, right = panel_start * lanes, min(n, panel_stop * lanes)
    if start == BIAS:
        _set_rows(C, row_start, row_stop, left, right, bias)
    elif k == 0 and start == NOTHING:
        C[row_start:row_stop, left:right] = 0
    lda = A.shape[1]
    most = min(row_stop - row_start, CHUNK) if a_transposed else row_stop - row_start
    blocks = _blocks(k)
    deepest = (k + blocks - 1) // blocks if blocks else 0
    group = min(GROUP, panel_stop - panel_start)
    # one allocation: what a task holds when it raises is never freed
    ends = group * deepest * lanes, (group * deepest + ROWS) * lanes
    scratch = aligned(ends[1] + (deepest * most if a_transposed else 1), C)
    packed, edge, columns = scratch[: ends[0]], scratch[ends[0] : ends[1]], scratch[ends[1] :]
    size = C.itemsize
    for row in range(row_start, row_stop, most):
        rows = min(most, row_stop - row)
        tiles = _tiles(rows)
        for block in range(blocks):
            top = k * block // blocks
            depth = k * (block + 1) // blocks - top
            accumulate = 0 if start == NOTHING and block == 0 else 1
            if a_transposed:
                _pack_columns(A, top, depth, row, rows, columns)
                # Numba's addresses are unsigned and sums with them are not; of both types it would make float64
                a = columns.ctypes.data + 0
            else:
                a = A.ctypes.data + (row * lda + top) * size
            # a group of panels and a strip of rows share the second cache level
            for first in range(panel_start, panel_stop, group):
                last = min(first + group, panel_stop)
                pack_panels(B, b_transposed, top, depth, 0, n, first, last, packed, 0)
                for strip in range(0, tiles, STRIP):
                    for p in range(first, last):
                        _rows_by_panel(
                            A,
                            a_transposed,
                            a,
                            lda,
                            rows,
                            strip,
                            min(strip + STRIP, tiles),
                            depth,
                            packed.ctypes.data + (p - first) * depth * lanes * size,
                            C,
                            C.ctypes.data + (row * n + p * lanes) * size,
                            n,
                            min(lanes, n - p * lanes),
                            accumulate,
                            edge,
                        )


_describe_share = describe_job(_share)


@compiled()
def _launch_share(slot: int, n_tasks: int, arguments: Any) -> bool:
    return run_job(slot, n_tasks, _describe_share(arguments))


@compiled(allocates=False)
def pack_columns_whole(B: Any, transposed: bool, left: int, columns: int, packed: Any, start: int) -> None:
    """Pack some columns of op(B) whole: blocks of `DEPTH` rows, each a run of panels."""
    k = B.shape[1] if transposed else B.shape[0]
    lanes = PANEL_BYTES // B.itemsize
    panels = (columns + lanes - 1) // lanes
    blocks = _blocks(k)
    for block in range(blocks):
        top = k * block // blocks
        depth = k * (block + 1) // blocks - top
        for first in range(0, panels, GROUP):
            place = start + (top * panels + first * depth) * lanes
            pack_panels(B, transposed, top, depth, left, columns, first, min(first + GROUP, panels), packed, place)


def _product_with_packed(
    A: Any,
    a_row: int,
    rows: int,
    packed: Any,
    start: int,
    k: int,
    C: Any,
    c_row: int,
    left: int,
    columns: int,
    edge: Any,
) -> None:
    size = C.itemsize
    lanes = PANEL_BYTES // size
    panels = (columns + lanes - 1) // lanes
    blocks = _blocks(k)
    tiles = _tiles(rows)
    for block in range(blocks):
        top = k * block // blocks
        depth = k * (block + 1) // blocks - top
        a = A.ctypes.data + (a_row * A.shape[1] + top) * size
        for p in range(panels):
            _rows_by_panel(
                A,
                False,
                a,
                A.shape[1],
                rows,
                0,
                tiles,
                depth,
                packed.ctypes.data + (start + (top * panels + p * depth) * lanes) * size,
                C,
                C.ctypes.data + (c_row * C.shape[1] + left + p * lanes) * size,
                C.shape[1],
                min(lanes, columns - p * lanes),
                1 if block > 0 else 0,
                edge,
            )


_call_product_with_packed = by_symbol(
    _product_with_packed, *_signatures(2, *[types.int64] * 2, 1, *[types.int64] * 2, 2, *[types.int64] * 3, 1)
)


@compiled(allocates=False)
def product_with_packed(
    A: Any,
    a_row: int,
    rows: int,
    packed: Any,
    start: int,
    k: int,
    C: Any,
    c_row: int,
    left: int,
    columns: int,
    edge: Any,
) -> None:
    """Multiply some rows of A by what `pack_columns_whole` packed, into columns of C (which it stores)."""
    _call_product_with_packed((A, a_row, rows, packed, start, k, C, c_row, left, columns, edge))


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
    start = KEEP if accumulate else NOTHING if bias is None else BIAS
    offsets = out[0] if bias is None else bias
    n_tasks = POOL.n_threads if m * n * k >= WORTH_SHARING else 1
    # by rows where columns are too few to share, and where each task would pack all of a transposed A again
    by_rows = m > n and (n < 4 * (PANEL_BYTES // out.itemsize) * n_tasks or (transpose_a and m > 4 * n))
    POOL.run(n_tasks, _launch_share, by_rows, a, transpose_a, b, transpose_b, offsets, start, out)


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
