"""Matrix products whose factors are rounded to bfloat16 (`precision="bf16"`); sums and results are float32.

The order of the loops is that of `capgpu.kernels.cpu.gemm`: a block of k, in it some rows of A, packed whole, and past
them the columns of B in groups. The first is read from the second cache level as often as there are groups. A share of
a product is a range of squares of rows or of columns: no barriers, the same bits for any number of threads.

This module is imported by the first product that asks for bfloat16; nothing of it is compiled before.
"""

from __future__ import annotations

from typing import Any

from capgpu.kernels.cpu.bf16_microkernel import COLUMNS, DEEP, SQUARE, TILE_BYTES, unit
from capgpu.kernels.cpu.bf16_pack import EDGE, copy_rows, pack, tiles_along
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.gemm import BIAS, KEEP, NOTHING
from capgpu.kernels.cpu.job_slot import run_job
from capgpu.kernels.cpu.symbols import call_address
from capgpu.kernels.cpu.task_code import describe_job
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import scratch

__all__ = ["ASIDE", "product_into", "squares"]

#: Greatest depth of packed factors, most rows of A that are packed at once, columns of B in a group.
DEPTH, CHUNK, GROUP = 1024, 2048, 256
#: Elements of a square of C.
ASIDE = SQUARE * SQUARE
#: Below this many multiply-adds one thread is faster than two.
WORTH_SHARING = 5_000_000


@compiled(allocates=False)
def squares(
    kernel: int,
    a: int,
    a_step: int,
    b: int,
    b_step: int,
    c: int,
    ldc: int,
    rows: int,
    columns: int,
    tiles: int,
    accumulate: bool,
    aside: int,
) -> None:
    """Multiply packed rows by packed columns, square by square.

    Parameters
    ----------
    kernel : int
        The first address of a unit.
    a, a_step, b, b_step : int
        Addresses of the first tiles, and bytes between those of neighbouring rows, or columns.
    c, ldc : int
        Address of C, and elements between its rows.
    rows, columns, tiles : int
        Extents of C, and tiles along k.
    accumulate : bool
        Whether to add to C.
    aside : int
        Address of scratch, `ASIDE` elements: what is smaller than whole tiles is computed there.
    """
    for i in range(0, rows, SQUARE):
        high = min(SQUARE, rows - i)
        tall = (high + COLUMNS - 1) // COLUMNS
        for j in range(0, columns, SQUARE):
            broad = min(SQUARE, columns - j)
            wide = (broad + COLUMNS - 1) // COLUMNS
            place, left, top = c + 4 * (i * ldc + j), a + i // COLUMNS * a_step, b + j // COLUMNS * b_step
            if high == tall * COLUMNS and broad == wide * COLUMNS:
                call_address(kernel, (left, a_step, top, b_step, place, ldc, tiles, tall, wide, accumulate))
                continue
            if accumulate:
                copy_rows(aside, SQUARE, place, ldc, high, broad)
            call_address(kernel, (left, a_step, top, b_step, aside, SQUARE, tiles, tall, wide, accumulate))
            copy_rows(place, ldc, aside, SQUARE, high, broad)


@compiled(allocates=False)
def _set_rows(C: Any, start: int, stop: int, left: int, right: int, bias: Any) -> None:
    source = bias[left:right]
    for i in range(start, stop):
        target = C[i, left:right]
        for j in range(target.size):
            target[j] = source[j]


@compiled(allocates=False)
def _share(
    index: int,
    count: int,
    kernels: Any,
    scratch: Any,
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
    row_start, row_stop, left, right = 0, m, 0, n
    if by_rows:
        whole = (m + SQUARE - 1) // SQUARE
        row_start, row_stop = whole * index // count * SQUARE, min(m, whole * (index + 1) // count * SQUARE)
    else:
        whole = (n + SQUARE - 1) // SQUARE
        left, right = whole * index // count * SQUARE, min(n, whole * (index + 1) // count * SQUARE)
    if row_start >= row_stop or left >= right:
        return
    if start == BIAS:
        _set_rows(C, row_start, row_stop, left, right, bias)
    elif k == 0 and start == NOTHING:
        C[row_start:row_stop, left:right] = 0
    most, widest = min(row_stop - row_start, CHUNK), min(right - left, GROUP)
    step = tiles_along(min(k, DEPTH)) * TILE_BYTES
    # Numba's addresses are unsigned and sums with them are not
    a = scratch[index].ctypes.data + 0
    b = a + (most + COLUMNS - 1) // COLUMNS * step
    edge = b + (widest + COLUMNS - 1) // COLUMNS * step
    aside = edge + 4 * EDGE
    A_data, B_data, C_data = A.ctypes.data + 0, B.ctypes.data + 0, C.ctypes.data + 0
    lda, ldb = A.shape[1], B.shape[1]
    kernel, begin, end = kernels
    if begin:
        call_address(begin, ())
    for row in range(row_start, row_stop, most):
        rows = min(most, row_stop - row)
        for top in range(0, k, DEPTH):
            depth = min(DEPTH, k - top)
            source = A_data + 4 * (top * lda + row if a_transposed else row * lda + top)
            pack(source, lda, not a_transposed, False, rows, depth, a, step, edge)
            for column in range(left, right, widest):
                columns = min(widest, right - column)
                source = B_data + 4 * (column * ldb + top if b_transposed else top * ldb + column)
                pack(source, ldb, b_transposed, True, columns, depth, b, step, edge)
                place = C_data + 4 * (row * n + column)
                adds = start != NOTHING or top > 0
                squares(kernel, a, step, b, step, place, n, rows, columns, tiles_along(depth), adds, aside)
    if end:
        call_address(end, ())


_describe_share = describe_job(_share)


@compiled()
def _launch_share(slot: int, n_tasks: int, arguments: Any) -> bool:
    return run_job(slot, n_tasks, _describe_share(arguments))


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
    """Compute a product as `capgpu.kernels.cpu.gemm.product_into` does, its factors rounded to bfloat16.

    Parameters
    ----------
    out : numpy.ndarray of float32, shape (m, n)
        The result. It has no row for the sums of `b`: those are not rounded (`capgpu.kernels.cpu.embedding`).
    a, b, bias, transpose_a, transpose_b, accumulate
        As there.
    """
    m, n = out.shape
    k = a.shape[0] if transpose_a else a.shape[1]
    start = KEEP if accumulate else NOTHING if bias is None else BIAS
    offsets = out[0] if bias is None else bias
    n_tasks = POOL.n_threads if m * n * k >= WORTH_SHARING else 1
    # each task packs the other factor whole
    rows, columns = (-(-min(extent, most) // COLUMNS) for extent, most in ((m, CHUNK), (n, GROUP)))
    room = (rows + columns) * -(-min(k, DEPTH) // DEEP) * TILE_BYTES // 4 + EDGE + ASIDE
    tiles = scratch("tiles", (n_tasks, room), out.dtype)
    POOL.run(n_tasks, _launch_share, unit(), tiles, m > n, a, transpose_a, b, transpose_b, offsets, start, out)
