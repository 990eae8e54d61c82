"""The oracle of sums of rows: the gradients of an embedding and of biases."""

from __future__ import annotations

from capgpu.backend import Array, array_namespace

__all__ = ["column_sums", "embedding_gradient"]


def embedding_gradient(drows: Array, index: Array, count: int) -> Array:
    """Sum rows by index, in a fixed order: the gradient of ``table[index]`` with respect to the table.

    Parameters
    ----------
    drows : array, shape (M, W)
        Gradient of each gathered row.
    index : array of int, shape (M,)
        Row of the table that each came from, in ``[0, count)``.
    count : int
        Rows of the table.

    Returns
    -------
    array, shape (count, W)
        ``out[k] = sum(drows[index == k])``; zeros for rows never taken.

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
    distinct, place = xp.unique_inverse(index)
    taken = xp.arange(distinct.shape[0], dtype=place.dtype, device=drows.device)
    membership = xp.astype(taken[:, None] == xp.reshape(place, (1, -1)), drows.dtype)
    sums = membership @ drows
    # spread the occurring rows over the table by a gather: slot 0 is the zero row of all others
    slots = xp.searchsorted(distinct, xp.arange(count, dtype=xp.int64, device=drows.device))
    slots = xp.clip(slots, 0, distinct.shape[0] - 1)
    present = xp.take(distinct, slots) == xp.arange(count, dtype=xp.int64, device=drows.device)
    return xp.where(present[:, None], xp.take(sums, slots, axis=0), out)


def column_sums(rows: Array) -> Array:
    """Sum the rows of a matrix, in a fixed order: the gradient of a bias.

    Parameters
    ----------
    rows : array, shape (M, W)
        Gradient of each row.

    Returns
    -------
    array, shape (W,)
        ``sum(rows)``, in their dtype.
    """
    return array_namespace(rows).sum(rows, axis=0)
