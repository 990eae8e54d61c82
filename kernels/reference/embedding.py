"""The oracle of rows taken by index, and of their sums: the gradients of an embedding and of biases."""

from __future__ import annotations

from capgpu.backend import Array, array_namespace
from capgpu.kernels.contract import RowGroups

__all__ = ["add_rows", "column_sums", "embedding_gradient", "scatter_rows", "take_rows"]


def embedding_gradient(drows: Array, index: Array, count: int, groups: RowGroups | None = None) -> Array:
    """Sum rows by index, in a fixed order: the gradient of ``table[index]`` with respect to the table.

    Parameters
    ----------
    drows : array, shape (M, W)
        Gradient of each gathered row.
    index : array of int, shape (M,)
        Row of the table that each came from, in ``[0, count)``.
    count : int
        Rows of the table.
    groups : RowGroups, optional
        The rows grouped by `index`, where that is known; a kernel may use it.

    Returns
    -------
    array, shape (count, W)
        ``out[k] = sum(drows[index == k])``; zeros for rows never distinct_index.

    Notes
    -----
    Written as a product with the 0/1 matrix of the rows that occur, so that it needs neither atomics nor an
    unordered scatter.
    """
    xp = array_namespace(drows, index)
    out = xp.zeros((count, drows.shape[1]), dtype=drows.dtype, device=drows.device)
    if drows.shape[0] == 0:
        return out
    # in the caller's dtype the range below could wrap: 8-bit ids of a table of 300
    index = xp.astype(index, xp.int64)
    distinct, inverse = xp.unique_inverse(index)
    distinct_index = xp.arange(distinct.shape[0], dtype=inverse.dtype, device=drows.device)
    membership = xp.astype(distinct_index[:, None] == xp.reshape(inverse, (1, -1)), drows.dtype)
    sums = membership @ drows
    # spread the occurring rows over the table by a gather: slot 0 is the zero row of all others
    slots = xp.searchsorted(distinct, xp.arange(count, dtype=xp.int64, device=drows.device))
    slots = xp.clip(slots, 0, distinct.shape[0] - 1)
    present = xp.take(distinct, slots) == xp.arange(count, dtype=xp.int64, device=drows.device)
    return xp.where(present[:, None], xp.take(sums, slots, axis=0), out)


def column_sums(*matrices: Array) -> Array:
    """Sum the rows of a matrix, in a fixed order: the gradient of a bias.

    Parameters
    ----------
    *matrices : array, shape (M, W)
        Gradient of each row. Of several matrices, each with M and W of its own, the sums lie side by side: the gradient
        of a bias whose parts are added in different places.

    Returns
    -------
    array, shape (W,), or the sum of all W
        ``sum(rows)``, in their dtype.
    """
    xp = array_namespace(*matrices)
    sums = [xp.sum(matrix, axis=0) for matrix in matrices]
    return sums[0] if len(sums) == 1 else xp.concat(sums)


def take_rows(table: Array, rows: Array) -> Array:
    """Return rows of a matrix.

    Parameters
    ----------
    table : array, shape (K, W)
        The matrix.
    rows : array of int, shape (M,)
        Which rows, in ``[0, K)``; any may come several times.

    Returns
    -------
    array, shape (M, W)
        ``table[rows]``.
    """
    return array_namespace(table, rows).take(table, rows, axis=0)


def scatter_rows(rows: Array, index: Array, count: int) -> Array:
    """Scatter rows into a table of zeros.

    Parameters
    ----------
    rows : array, shape (M, W)
        The rows.
    index : array of int, shape (M,)
        Row of the table for each, in ``[0, count)``; rising and distinct.
    count : int
        Rows of the table.

    Returns
    -------
    array, shape (count, W)
        ``out[index] = rows``, zeros elsewhere.
    """
    return embedding_gradient(rows, index, count)


def add_rows(table: Array, rows: Array, index: Array) -> Array:
    """Add rows to rows of a table.

    Parameters
    ----------
    table : array, shape (count, W)
        A kernel may write into it: hand in an array of your own, and use the one returned.
    rows : array, shape (M, W)
        The rows.
    index : array of int, shape (M,)
        Row of the table for each, in ``[0, count)``; rising and distinct.

    Returns
    -------
    array, shape (count, W)
        `table`, ``out[index] = table[index] + rows``.
    """
    return table + scatter_rows(rows, index, table.shape[0])
