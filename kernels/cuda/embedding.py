"""Gathered rows and sums of rows on the device; the kernels are in embedding.cu."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np

from capgpu.kernels.contract import RowGroups
from capgpu.kernels.cuda.array_checks import NULL, check_device, contiguous, empty, indices, sum_dtype
from capgpu.kernels.cuda.compile import kernel
from capgpu.kernels.cuda.constants import COLUMN_WARPS, MATRICES, PACK_BYTES, WARP
from capgpu.kernels.cuda.device_calls import argsort
from capgpu.kernels.cuda.workspace import Workspace, workspace

__all__ = [
    "add_bias",
    "add_rows",
    "add_rows_into",
    "column_sums",
    "embedding_gradient",
    "gather_rows",
    "joint_column_sums",
    "scatter_rows",
    "scatter_rows_into",
    "segment_sums",
    "sum_columns",
    "sum_columns_later",
    "take_rows",
]

#: Rows that one block sums; matrices with more rows take a second launch. On an H100 the biases of S1 take 8.6 us with
#: slices of 128 rows, 7.4 with 64, 7.5 with 32; those of S3 25.9, 26.4 and 28.5.
SLICE = 64

_COLUMNS = np.dtype(
    {
        "names": ["rows", "out", "M", "width", "slice", "first_block", "of_sums", "to_sums", "stride"],
        "formats": [np.uint64, np.uint64, *[np.int32] * 7],
    },
    align=True,
)
_COLUMNS_LIST = np.dtype([("at", _COLUMNS, MATRICES)], align=True)
# the same bytes without fields, since CuPy would let NumPy describe all fields, which takes 40 us
_COLUMNS_BYTES = np.dtype((np.void, _COLUMNS_LIST.itemsize))


def _tiles(width: int, dtype: Any) -> int:
    columns: int = WARP * (PACK_BYTES // dtype.itemsize)  # of a tile
    return -(-width // columns)


def gather_rows(table: Any, index: Any, out: Any) -> None:
    """Copy rows of a table, ``out = table[index]``; one launch.

    Parameters
    ----------
    table : array, shape (*, width)
        Without gaps.
    index : array of int32, shape (M,)
        Rows to take.
    out : array, shape (M, width)
        Written.
    """
    count, width = out.shape
    kernel("gather_rows", out.dtype)(
        -(-count // COLUMN_WARPS), WARP * COLUMN_WARPS, (table, index, out, np.int32(count), np.int32(width))
    )


def take_rows(table: Any, rows: Any) -> Any:
    """Take rows of a matrix; see `capgpu.kernels.reference.take_rows`."""
    check_device(table=table, rows=rows)
    out = empty((rows.shape[0], table.shape[1]), table.dtype, "rows of a matrix")
    if out.size:
        gather_rows(contiguous(table), indices(rows), out)
    return out


def scatter_rows_into(rows: Any, index: Any, out: Any) -> None:
    """Write rows into a table of zeros, ``out[:] = 0; out[index] = rows``; one launch.

    Parameters
    ----------
    rows : array, shape (M, width)
        C-contiguous.
    index : array of int32, shape (M,)
        Row of `out` for each row; increasing.
    out : array, shape (count, width)
        C-contiguous; written.
    """
    count, width = out.shape
    kernel("scatter_rows", out.dtype)(
        -(-count // COLUMN_WARPS),
        WARP * COLUMN_WARPS,
        (rows, index, out, np.int32(rows.shape[0]), np.int32(count), np.int32(width)),
    )


def add_rows_into(rows: Any, index: Any, out: Any) -> None:
    """Add rows to those of a table, ``out[index] += rows``; one launch.

    Parameters
    ----------
    rows : array, shape (M, width)
        C-contiguous.
    index : array of int32, shape (M,)
        Row of `out` for each row; distinct.
    out : array, shape (*, width)
        C-contiguous; written.
    """
    count, width = rows.shape
    kernel("add_rows", out.dtype)(
        -(-count // COLUMN_WARPS), WARP * COLUMN_WARPS, (rows, index, out, np.int32(count), np.int32(width))
    )


def add_bias(bias: Any, out: Any) -> None:
    """Add a row to every row of a matrix, ``out += bias``; one launch, which a graph can capture.

    Parameters
    ----------
    bias : array, shape (width,)
        C-contiguous.
    out : array, shape (M, width)
        C-contiguous; written.
    """
    count, width = out.shape
    if out.size:
        kernel("add_bias", out.dtype)(
            -(-count // COLUMN_WARPS), WARP * COLUMN_WARPS, (bias, out, np.int32(count), np.int32(width))
        )


def scatter_rows(rows: Any, index: Any, count: int) -> Any:
    """Spread rows over a table of zeros; see `capgpu.kernels.reference.scatter_rows`."""
    check_device(rows=rows, index=index)
    out = empty((count, rows.shape[1]), rows.dtype, "rows spread over a table")
    scatter_rows_into(contiguous(rows), indices(index), out)
    return out


def add_rows(table: Any, rows: Any, index: Any) -> Any:
    """Add rows to rows of a table, in place; see `capgpu.kernels.reference.add_rows`."""
    check_device(table=table, rows=rows, index=index)
    table = contiguous(table)
    add_rows_into(contiguous(rows), indices(index), table)
    return table


def segment_sums(rows: Any, index: Any, order: Any, starts: Any, out: Any) -> None:
    """Sum rows by index, in a fixed order; one launch.

    Parameters
    ----------
    rows : array, shape (M, width)
        Without gaps.
    index : array of int32, shape (M,)
        Row of `out` to which each row is added.
    order : array of int32, shape (M,)
        Stable argsort of `index`.
    starts : array of int32, shape (count + 1,), or None
        Start of each index in `order`; if None, the kernel finds it by binary search.
    out : array, shape (count, width)
        Written: the sums, zero for indices that do not occur.
    """
    count, width = out.shape
    kernel("segment_sums", out.dtype)(
        count * _tiles(width, out.dtype),
        WARP * COLUMN_WARPS,
        (
            rows,
            index,
            order,
            NULL if starts is None else starts,
            out,
            np.int32(rows.shape[0]),
            np.int32(width),
        ),
    )


def embedding_gradient(drows: Any, index: Any, count: int, groups: RowGroups | None = None) -> Any:
    """Sum rows by index; see `capgpu.kernels.reference.embedding_gradient`. One launch, where `groups` is given."""
    check_device(drows=drows, index=index)
    out = empty((count, drows.shape[1]), drows.dtype, "the gradient of rows of a matrix")
    index = indices(index)
    if groups is None:
        order, starts = argsort(index).astype(np.int32), None
    else:
        order, starts = (indices(part) for part in groups)
    segment_sums(contiguous(drows), index, order, starts, out)
    return out


def column_sums(*matrices: Any) -> Any:
    """Sum the rows of a matrix; see `capgpu.kernels.reference.column_sums`."""
    check_device(rows=matrices)
    out = empty((sum(matrix.shape[1] for matrix in matrices),), matrices[0].dtype, "the sums of columns")
    first = 0
    for rows in matrices:
        # some columns of a matrix are summed where they are
        rows_in_place = rows if rows.strides[1] == rows.itemsize else contiguous(rows)
        sum_columns_later(workspace(), rows_in_place, out[first : first + rows.shape[1]])
        first += rows.shape[1]
    return out


@contextmanager
def joint_column_sums() -> Iterator[None]:
    """Compute sums of columns together; see `capgpu.kernels.reference.Kernels.joint_column_sums`."""
    space = workspace()
    pending: list[tuple[Any, Any]] = []
    # blocks can be nested: a signal handler may compute a loss inside another loss's block
    previous, space.pending_sums = space.pending_sums, pending
    try:
        yield
        space.pending_sums = previous
        for start in range(0, len(pending), MATRICES):
            sum_columns(space, pending[start : start + MATRICES])
    finally:
        space.pending_sums = previous


def sum_columns_later(space: Workspace, rows: Any, out: Any) -> None:
    """Sum the rows of a matrix into `out`: immediately, or inside `joint_column_sums` at the end of its block."""
    if space.pending_sums is None:
        sum_columns(space, [(rows, out)])
    else:
        space.pending_sums.append((rows, out))


def sum_columns(space: Workspace, matrices: Sequence[tuple[Any, Any]]) -> None:
    """Sum the rows of several matrices of one dtype: one launch, or two if one has more than `SLICE` rows.

    Parameters
    ----------
    space : Workspace
        Workspace for the sums of slices.
    matrices : sequence of (rows, out)
        Up to 8 row-major matrices of shape (M, width), whose rows may be parts of longer ones, and the arrays of shape
        (width,) for their sums.
    """
    dtype = matrices[0][0].dtype
    first_stage: list[tuple[Any, Any, int]] = []
    second_stage: list[tuple[Any, Any, int]] = []
    for index, (rows, out) in enumerate(matrices):
        count, width = rows.shape
        if count <= SLICE:
            first_stage.append((rows, out, SLICE))
            continue
        shape = (-(-count // SLICE), width)
        partial = space.take(f"sums of slices {index}", shape, sum_dtype(dtype))
        first_stage.append((rows, partial, SLICE))
        second_stage.append((partial, out, partial.shape[0]))
    _launch_columns(dtype, first_stage, of_sums=False)
    if second_stage:
        _launch_columns(dtype, second_stage, of_sums=True)


def _launch_columns(dtype: Any, stage: Sequence[tuple[Any, Any, int]], of_sums: bool) -> None:
    sizes = tuple(
        [(*rows.shape, slice_rows, out.ndim == 2, rows.strides[0] // rows.itemsize) for rows, out, slice_rows in stage]
    )
    blocks, template = _columns(dtype, sizes, of_sums)
    words = template.copy()
    # the first two words of each matrix
    words.reshape(MATRICES, -1)[: len(stage), :2] = [(rows.data.ptr, out.data.ptr) for rows, out, _ in stage]
    kernel("column_sums", dtype)(blocks, WARP * COLUMN_WARPS, (words.view(_COLUMNS_BYTES), np.int32(len(stage))))


@lru_cache(maxsize=1024)
def _columns(dtype: Any, sizes: tuple[tuple[int, int, int, bool, int], ...], of_sums: bool) -> tuple[int, Any]:
    """Return the number of blocks of a launch, and the words of its argument structure without the addresses."""
    template, blocks = np.zeros((), _COLUMNS_LIST), 0
    for index, (count, width, slice_rows, to_sums, stride) in enumerate(sizes):
        template["at"][index] = (0, 0, count, width, slice_rows, blocks, of_sums, to_sums, stride)
        blocks += _tiles(width, dtype) * max(-(-count // slice_rows), 1)
    return blocks, template.reshape(1).view(np.uint64)
