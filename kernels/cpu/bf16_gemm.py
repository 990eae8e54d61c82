"""Matrix products whose factors are rounded to bfloat16 (`precision="bf16"`); sums and results are float32.

The order of the loops is that of `capgpu.kernels.cpu.gemm`: a block of k, in it some rows of A, packed whole, and past
them the columns of B in groups. The first is read from the second cache level as often as there are groups. A share of
a product is a range of squares of rows or of columns: no barriers, the same bits for any number of threads.

This module is imported by the first product that asks for bfloat16; nothing of it is compiled before.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from capgpu.kernels.cpu.bf16_microkernel import COLUMNS, DEEP, SQUARE, TILE_BYTES, Unit, unit
from capgpu.kernels.cpu.bf16_pack import BLOCK, copy_rows, pack, tiles_along
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.gemm import BIAS, KEEP, NOTHING, set_rows
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.symbols import call_address
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import scratch

__all__ = ["ASIDE", "product_into", "squares"]

#: Greatest depth of packed factors, most rows of A that are packed at once, columns of B in a group.
DEPTH, CHUNK, GROUP = 1024, 2048, 256
#: Elements of a square of C.
ASIDE = SQUARE * SQUARE
#: Below this many multiply-adds one thread is faster than two.
WORTH_SHARING = 5_000_000


@compiled()
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
        height = min(SQUARE, rows - i)
        tall = (height + COLUMNS - 1) // COLUMNS
        for j in range(0, columns, SQUARE):
            width = min(SQUARE, columns - j)
            wide = (width + COLUMNS - 1) // COLUMNS
            target, a_tile, b_tile = c + 4 * (i * ldc + j), a + i // COLUMNS * a_step, b + j // COLUMNS * b_step
            if height == tall * COLUMNS and width == wide * COLUMNS:
                call_address(kernel, (a_tile, a_step, b_tile, b_step, target, ldc, tiles, tall, wide, accumulate))
                continue
            if accumulate:
                copy_rows(aside, SQUARE, target, ldc, height, width)
            call_address(kernel, (a_tile, a_step, b_tile, b_step, aside, SQUARE, tiles, tall, wide, accumulate))
            copy_rows(target, ldc, aside, SQUARE, height, width)


class _RoundedProduct(NamedTuple):
    """Operands of a product; all but the first two as of `capgpu.kernels.cpu.gemm.Product`."""

    unit: Unit
    memory: Any  # a row for each task: packed factors, and scratch
    by_rows: bool
    A: Any
    a_transposed: bool
    B: Any
    b_transposed: bool
    bias: Any
    initial: int
    C: Any


@parallel_job(operands=_RoundedProduct)
def _multiply(index: int, count: int, product: _RoundedProduct) -> None:
    """Compute some squares of rows or of columns of a product."""
    unit, memory, by_rows, A, a_transposed, B, b_transposed, bias, initial, C = product
    m, n = C.shape
    k = A.shape[0] if a_transposed else A.shape[1]
    first_row, last_row, first_column, last_column = 0, m, 0, n
    if by_rows:
        squares_along = (m + SQUARE - 1) // SQUARE
        first_row = squares_along * index // count * SQUARE
        last_row = min(m, squares_along * (index + 1) // count * SQUARE)
    else:
        squares_along = (n + SQUARE - 1) // SQUARE
        first_column = squares_along * index // count * SQUARE
        last_column = min(n, squares_along * (index + 1) // count * SQUARE)
    if first_row >= last_row or first_column >= last_column:
        return
    if initial == BIAS:
        set_rows(C, first_row, last_row, first_column, last_column, bias)
    elif k == 0 and initial == NOTHING:
        C[first_row:last_row, first_column:last_column] = 0
    max_rows, max_columns = min(last_row - first_row, CHUNK), min(last_column - first_column, GROUP)
    step = tiles_along(min(k, DEPTH)) * TILE_BYTES
    # Numba's addresses are unsigned and sums with them are not
    a = memory[index].ctypes.data + 0
    b = a + (max_rows + COLUMNS - 1) // COLUMNS * step
    block = b + (max_columns + COLUMNS - 1) // COLUMNS * step
    aside = block + 4 * BLOCK
    A_data, B_data, C_data = A.ctypes.data + 0, B.ctypes.data + 0, C.ctypes.data + 0
    lda, ldb = A.shape[1], B.shape[1]
    kernel, begin, end = unit
    if begin:
        call_address(begin, ())
    for row in range(first_row, last_row, max_rows):
        rows = min(max_rows, last_row - row)
        for top in range(0, k, DEPTH):
            depth = min(DEPTH, k - top)
            source = A_data + 4 * (top * lda + row if a_transposed else row * lda + top)
            pack(source, lda, not a_transposed, False, rows, depth, a, step, block)
            for column in range(first_column, last_column, max_columns):
                columns = min(max_columns, last_column - column)
                source = B_data + 4 * (column * ldb + top if b_transposed else top * ldb + column)
                pack(source, ldb, b_transposed, True, columns, depth, b, step, block)
                c = C_data + 4 * (row * n + column)
                adds = initial != NOTHING or top > 0
                squares(kernel, a, step, b, step, c, n, rows, columns, tiles_along(depth), adds, aside)
    if end:
        call_address(end, ())


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
    initial = KEEP if accumulate else NOTHING if bias is None else BIAS
    n_tasks = POOL.n_threads if m * n * k >= WORTH_SHARING else 1
    # each task packs the other factor whole
    rows, columns = (-(-min(extent, limit) // COLUMNS) for extent, limit in ((m, CHUNK), (n, GROUP)))
    task_size = (rows + columns) * -(-min(k, DEPTH) // DEEP) * TILE_BYTES // 4 + BLOCK + ASIDE
    product = _RoundedProduct(
        unit=unit(),
        memory=scratch("tiles", (n_tasks, task_size), out.dtype),
        by_rows=m > n,
        A=a,
        a_transposed=transpose_a,
        B=b,
        b_transposed=transpose_b,
        bias=out[0] if bias is None else bias,
        initial=initial,
        C=out,
    )
    POOL.run(n_tasks, _multiply, *product)
