"""Packed sequences: padding is work not done.

A batch of N sequences of different lengths is sorted by falling length and laid out time-major without its
padding: step 0 of every sequence, then step 1 of those that have one, and so on. Step t then holds the first
``batch_sizes[t]`` sequences of the order, so that a recurrence over shrinking batches needs no mask.

    lengths 2 4 1  ->  order 1 0 2,  batch_sizes 3 2 1 1,  rows  b0 a0 c0 | b1 a1 | b2 | b3

The layout is that of PyTorch's PackedSequence. The plan is made on the host, from host integers; the arrays
it rearranges may live anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from capgpu.backend import Array, array_namespace
from capgpu.errors import InvalidValueError

__all__ = ["Packing", "after_start", "caption_lengths", "pack", "packed_rows", "rows_of_grids", "unpack"]

HostInts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class Packing:
    """The plan of a packed layout.

    Attributes
    ----------
    order : numpy.ndarray of int64, shape (N,)
        Sequence at each rank, longest first; equal lengths keep their order.
    batch_sizes : numpy.ndarray of int64, shape (T,)
        Number of sequences that have each step, non-increasing. T is the longest length.
    """

    order: HostInts
    batch_sizes: HostInts

    @classmethod
    def from_lengths(cls, lengths: Any) -> Packing:
        """Compute the layout of sequences of the given lengths.

        Parameters
        ----------
        lengths : array_like of int, shape (N,)
            Length of each sequence on the host; 0 is allowed.

        Returns
        -------
        Packing
            The plan.

        Raises
        ------
        ValueError
            For negative lengths or another rank.
        """
        lengths = np.asarray(lengths)
        if lengths.ndim != 1 or lengths.dtype.kind not in "iu":
            raise InvalidValueError(
                f"lengths: expected integers of shape (N,), got shape {lengths.shape}, dtype {lengths.dtype}."
            )
        if lengths.size and lengths.min() < 0:
            raise InvalidValueError(f"lengths: expected 0 or more, got {lengths.min()}.")
        order = np.argsort(-lengths.astype(np.int64), kind="stable")
        longest = int(lengths.max(initial=0))
        n_ended = np.bincount(lengths.astype(np.int64), minlength=longest + 1)
        batch_sizes = lengths.size - np.cumsum(n_ended)[:longest]
        return cls(order, batch_sizes.astype(np.int64))

    @classmethod
    def full(cls, count: int, steps: int) -> Packing:
        """Compute the layout of `count` sequences of `steps` steps each.

        Parameters
        ----------
        count, steps : int
            Number of sequences, and of steps of each.

        Returns
        -------
        Packing
            The plan.
        """
        return cls(np.arange(count), np.full(steps, count, dtype=np.int64))

    @property
    def rows(self) -> int:
        """Number of packed rows: real steps of all sequences."""
        return int(self.batch_sizes.sum())

    @property
    def alive(self) -> int:
        """Number of sequences that have at least one step."""
        return int(self.batch_sizes[0]) if self.batch_sizes.size else 0

    @cached_property
    def step_of_row(self) -> HostInts:
        """Step of each packed row, shape (rows,)."""
        return np.repeat(np.arange(self.batch_sizes.size), self.batch_sizes)

    @cached_property
    def rank_of_row(self) -> HostInts:
        """Rank (place in `order`) of each packed row, shape (rows,)."""
        starts = np.cumsum(self.batch_sizes) - self.batch_sizes
        return np.arange(self.rows) - np.repeat(starts, self.batch_sizes)

    @cached_property
    def sequence_of_row(self) -> HostInts:
        """Sequence of each packed row, shape (rows,)."""
        return self.order[self.rank_of_row]


def pack(padded: Array, packing: Packing) -> Array:
    """Return the packed rows of a padded batch.

    Parameters
    ----------
    padded : array, shape (N, T, ...)
        One sequence a row, at least as long as the longest of the packing.
    packing : Packing
        The plan.

    Returns
    -------
    array, shape (rows, ...)
        The packed rows, in the same library and on the same device.
    """
    xp = array_namespace(padded=padded)
    count, steps = padded.shape[:2]
    if count != packing.order.size or steps < packing.batch_sizes.size:
        raise InvalidValueError(
            f"padded: expected {packing.order.size} sequences of at least {packing.batch_sizes.size} steps, as in "
            f"packing, got shape {tuple(padded.shape)}."
        )
    flat = xp.reshape(padded, (count * steps, *padded.shape[2:]))
    index = packing.sequence_of_row * steps + packing.step_of_row
    return xp.take(flat, xp.asarray(index, device=padded.device), axis=0)


def unpack(packed: Array, packing: Packing, steps: int | None = None) -> Array:
    """Return a padded batch of packed rows, zero after the end of each sequence.

    Parameters
    ----------
    packed : array, shape (rows, ...)
        Packed rows.
    packing : Packing
        The plan they were packed by.
    steps : int, optional
        Steps of the result; by default the longest length.

    Returns
    -------
    array, shape (N, steps, ...)
        The padded batch.
    """
    xp = array_namespace(packed=packed)
    longest = packing.batch_sizes.size
    steps = longest if steps is None else steps
    if packed.shape[0] != packing.rows:
        raise InvalidValueError(f"packed: expected {packing.rows} rows, as in packing, got {packed.shape[0]}.")
    if steps < longest:
        raise InvalidValueError(f"steps: expected at least {longest}, the longest length, got {steps}.")
    count = packing.order.size
    source = np.full(count * steps, packing.rows, dtype=np.int64)
    source[packing.sequence_of_row * steps + packing.step_of_row] = np.arange(packing.rows)
    blank = xp.zeros((1, *packed.shape[1:]), dtype=packed.dtype, device=packed.device)
    rows = xp.take(xp.concat([packed, blank], axis=0), xp.asarray(source, device=packed.device), axis=0)
    return xp.reshape(rows, (count, steps, *packed.shape[1:]))


def caption_lengths(captions: Any, null: int) -> HostInts:
    """Return the steps of captions: up to the last word after the first column that is not NULL.

    Parameters
    ----------
    captions : numpy.ndarray of int, shape (N, T + 1)
        Word ids.
    null : int
        Id of NULL.

    Returns
    -------
    numpy.ndarray of int64, shape (N,)
        0 for a caption without words.
    """
    steps = np.arange(1, captions.shape[1])
    return np.asarray(((captions[:, 1:] != null) * steps).max(axis=1, initial=0), dtype=np.int64)


def packed_rows(captions: Any, rows: Any, null: int) -> tuple[HostInts, int]:
    """Return where the packed rows of some captions are among those of all captions.

    Parameters
    ----------
    captions : numpy.ndarray of int, shape (N, T + 1)
        All captions.
    rows : numpy.ndarray of int, shape (n,)
        Which of them are packed alone.
    null : int
        Id of NULL.

    Returns
    -------
    places : numpy.ndarray of int64, shape (m,)
        For each packed row of the captions ``rows``, its place in the packing of all captions.
    count : int
        Rows of that packing.

    Examples
    --------
    >>> import numpy as np
    >>> from capgpu.sequence import packed_rows
    >>> packed_rows(np.array([[1, 5, 0], [1, 5, 6]]), np.array([0]), 0)  # the second caption is longer: it comes first
    (array([1]), 3)
    """
    lengths = caption_lengths(captions, null)
    whole, part = Packing.from_lengths(lengths), Packing.from_lengths(lengths[rows])
    rank = np.empty_like(whole.order)
    rank[whole.order] = np.arange(whole.order.size)
    first_rows = np.cumsum(whole.batch_sizes) - whole.batch_sizes
    return first_rows[part.step_of_row] + rank[np.asarray(rows)[part.sequence_of_row]], whole.rows


def rows_of_grids(rows: Any, cells: int) -> HostInts:
    """Return the rows of some grids among all, of which each has `cells` rows one below the other.

    Parameters
    ----------
    rows : numpy.ndarray of int, shape (n,)
        Numbers of the grids.
    cells : int
        Rows of a grid.

    Returns
    -------
    numpy.ndarray of int64, shape (n * cells,)
        Numbers of the rows.
    """
    return np.asarray(rows[:, None] * cells + np.arange(cells), np.int64).ravel()


def after_start(ids: Any, start: int) -> HostInts:
    """Return captions that were decoded, (N, T), with START before them, (N, T + 1)."""
    return np.concatenate([np.full((ids.shape[0], 1), start, ids.dtype), ids], axis=1)
