"""Matrix products on the host: panels of B are packed, tiles of C are computed from registers.

C (m, n) = op(A) (m, k) op(B) (k, n), where op is nothing or the transpose. A panel is two vectors of columns wide
and at most `DEPTH` deep, so that it stays in the first cache levels while all rows of A pass by it. Shares of one
product are independent column (or row) ranges: no barriers, and the same bits for any number of threads.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.handoff import announce, publisher
from capgpu.kernels.cpu.team import TEAM, Region
from capgpu.kernels.cpu.tile import PANEL_BYTES, ROWS, tile

__all__ = ["DEPTH", "PACK", "aligned", "matmul", "pack_panel", "packed_product", "packed_size", "product_into"]

#: Greatest depth of a packed panel: 80 KiB at two AVX-512 vectors.
DEPTH = 640
#: Panels of B, and tiles of A, that are worked on together.
GROUP, STRIP = 8, 20
#: Below this many multiply-adds, waking a second thread costs more than it gains.
WORTH_SHARING = 5_000_000
#: What a product is added to.
NOTHING, BIAS, KEEP = 0, 1, 2


@compiled(allocates=False)
def pack_panel(B: Any, transposed: bool, row: int, depth: int, column: int, width: int, panel: Any, start: int) -> None:
    """Copy a block of op(B) into a panel, ``panel[start + k * lanes + j]``, zeros beside a narrow block."""
    lanes = PANEL_BYTES // B.itemsize
    if transposed:
        # in strips of 64, so that the cache lines written stay in the first cache level
        for strip in range(0, depth, 64):
            for j in range(width):
                source = B[column + j, row + strip : row + min(strip + 64, depth)]
                target = panel[start + strip * lanes + j : start + depth * lanes]
                for k in range(source.size):
                    target[k * lanes] = source[k]
    else:
        for k in range(depth):
            source = B[row + k, column : column + width]
            target = panel[start + k * lanes : start + k * lanes + width]
            for j in range(target.size):
                target[j] = source[j]
    if width < lanes:
        for k in range(depth):
            panel[start + k * lanes + width : start + (k + 1) * lanes] = 0


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
    """Copy a block of A (k, m) into tiles ``[k][height]``, in the order in which `_rows_by_panel` takes them."""
    tiles = _tiles(count)
    for t in range(tiles):
        first = count * t // tiles
        height = count * (t + 1) // tiles - first
        start = first * depth
        for k in range(depth):
            source = A[row + k, column + first : column + first + height]
            target = packed[start + k * height : start + (k + 1) * height]
            for r in range(target.size):
                target[r] = source[r]


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
    for t in range(tile_start, tile_stop):
        row = rows * t // tiles
        height = rows * (t + 1) // tiles - row
        here = a + row * (depth if packed_tiles else lda) * size
        step = height if packed_tiles else lda
        if width == lanes:
            tile(A, here, step, panel, c + row * ldc * size, ldc, depth, height, packed_tiles, accumulate)
        else:
            # a panel wider than what is left of C is computed aside
            tile(A, here, step, panel, edge.ctypes.data, lanes, depth, height, packed_tiles, 0)
            _add_edge(C, c + row * ldc * size, ldc, height, width, accumulate, edge)


@compiled(allocates=False)
def _add_edge(C: Any, c: int, ldc: int, height: int, width: int, accumulate: int, edge: Any) -> None:
    lanes = PANEL_BYTES // C.itemsize
    first = (c - C.ctypes.data) // C.itemsize
    flat = C.reshape(C.size)
    for i in range(height):
        source, target = edge[i * lanes : i * lanes + width], flat[first + i * ldc : first + i * ldc + width]
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
    rows = row_stop - row_start
    blocks = _blocks(k)
    deepest = (k + blocks - 1) // blocks if blocks else 0
    group = min(GROUP, panel_stop - panel_start)
    packed = aligned(group * deepest * lanes, C)
    columns = aligned(deepest * rows if a_transposed else 1, C)
    edge = aligned(ROWS * lanes, C)
    size = C.itemsize
    tiles = _tiles(rows)
    for block in range(blocks):
        top = k * block // blocks
        depth = k * (block + 1) // blocks - top
        accumulate = 0 if start == NOTHING and block == 0 else 1
        if a_transposed:
            _pack_columns(A, top, depth, row_start, rows, columns)
            a = columns.ctypes.data
        else:
            a = A.ctypes.data + (row_start * lda + top) * size
        # a group of panels and a strip of rows share the second cache level
        for first in range(panel_start, panel_stop, group):
            last = min(first + group, panel_stop)
            for p in range(first, last):
                width = min(lanes, n - p * lanes)
                pack_panel(B, b_transposed, top, depth, p * lanes, width, packed, (p - first) * depth * lanes)
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
                        C.ctypes.data + (row_start * n + p * lanes) * size,
                        n,
                        min(lanes, n - p * lanes),
                        accumulate,
                        edge,
                    )


_publish_share = publisher(_share)


@compiled()
def _launch_share(memory: int, ticket: int, count: int, arguments: Any) -> None:
    _publish_share(memory, count, arguments)
    announce(memory, ticket)


PRODUCT = Region(_share, _launch_share)


@compiled()
def packed_size(k: int, n: int, itemsize: int) -> int:
    """Return the number of elements of a whole packed matrix (k, n)."""
    lanes = PANEL_BYTES // itemsize
    return (n + lanes - 1) // lanes * lanes * k


@compiled(allocates=False)
def _pack(index: int, count: int, B: Any, transposed: bool, packed: Any) -> None:
    """Pack one share of op(B) whole: blocks of `DEPTH` rows, each a run of panels."""
    k, n = (B.shape[1], B.shape[0]) if transposed else B.shape
    lanes = PANEL_BYTES // B.itemsize
    panels = (n + lanes - 1) // lanes
    blocks = _blocks(k)
    for block in range(blocks):
        top = k * block // blocks
        depth = k * (block + 1) // blocks - top
        for p in range(panels * index // count, panels * (index + 1) // count):
            width = min(lanes, n - p * lanes)
            start = top * panels * lanes + p * depth * lanes
            pack_panel(B, transposed, top, depth, p * lanes, width, packed, start)


_publish_pack = publisher(_pack)


@compiled()
def _launch_pack(memory: int, ticket: int, count: int, arguments: Any) -> None:
    _publish_pack(memory, count, arguments)
    announce(memory, ticket)


PACK = Region(_pack, _launch_pack)


@compiled(allocates=False)
def packed_product(
    A: Any, a_row: int, a_step: int, rows: int, packed: Any, k: int, C: Any, c_row: int, c_step: int, edge: Any
) -> None:
    """Multiply some rows of A by a matrix packed whole, into rows of C (which it stores).

    Row i is ``A[a_row + i * a_step]``, its result ``C[c_row + i * c_step]``.
    """
    n = C.shape[1]
    size = C.itemsize
    lanes = PANEL_BYTES // size
    panels = (n + lanes - 1) // lanes
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
                a_step * A.shape[1],
                rows,
                0,
                tiles,
                depth,
                packed.ctypes.data + (top * panels * lanes + p * depth * lanes) * size,
                C,
                C.ctypes.data + (c_row * n + p * lanes) * size,
                c_step * n,
                min(lanes, n - p * lanes),
                1 if block > 0 else 0,
                edge,
            )


def product_into(
    out: Any,
    a: Any,
    b: Any,
    bias: Any = None,
    *,
    transpose_a: bool = False,
    transpose_b: bool = False,
    accumulate: bool = False,
) -> None:
    """Compute ``op(a) op(b) + bias`` into a contiguous array, or add it to what is there.

    Parameters
    ----------
    out : numpy.ndarray, shape (m, n)
        The result; must not overlap the factors.
    a, b : numpy.ndarray
        Contiguous factors, shapes (m, k) and (k, n), or (k, m) and (n, k) where transposed.
    bias : numpy.ndarray, shape (n,), optional
        Added to every row; not together with `accumulate`.
    transpose_a, transpose_b : bool
        Take the transpose of a factor as it lies.
    accumulate : bool
        Add to `out`.
    """
    m, n = out.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    start = KEEP if accumulate else NOTHING if bias is None else BIAS
    offsets = out[0] if bias is None else bias
    members = TEAM.size if m * n * k >= WORTH_SHARING else 1
    by_rows = n < 4 * (PANEL_BYTES // out.itemsize) * members and m > n
    TEAM.run(members, PRODUCT, by_rows, a, transpose_a, b, transpose_b, offsets, start, out)


def matmul(a: Any, b: Any, bias: Any = None, *, transpose_a: bool = False, transpose_b: bool = False) -> Any:
    """Multiply two matrices; see `capgpu.kernels.reference.matmul`."""
    a, b = np.ascontiguousarray(a), np.ascontiguousarray(b)
    out = np.empty((a.shape[transpose_a], b.shape[not transpose_b]), dtype=a.dtype)
    if out.size:
        bias = None if bias is None else np.ascontiguousarray(bias)
        product_into(out, a, b, bias, transpose_a=transpose_a, transpose_b=transpose_b)
    return out
