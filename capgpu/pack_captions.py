"""Captions as a recurrent captioner is taught: packed inputs, targets, and the inputs' distinct words.

Planned on the host from host integers, whatever the backend: what reaches a device is three index arrays.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from capgpu.backend import Array, array_namespace
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.kernels import Kernels, host_kernels
from capgpu.sequence import Packing

__all__ = ["PackedCaptions", "check_captions"]

HostInts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, eq=False)
class PackedCaptions:
    """A minibatch of captions, laid out for teacher forcing without its padding.

    Attributes
    ----------
    packing : Packing
        The layout: a caption's steps run to its last target that is not NULL.
    words : numpy.ndarray of int64, shape (U,)
        Distinct input words, rising.
    word_of_row : numpy.ndarray of int64, shape (M,)
        Place in `words` of each packed row's input.
    targets : numpy.ndarray of int64, shape (M,)
        Next word of each packed row; -1 where it is NULL (a step inside a caption that does not count).
    """

    packing: Packing
    words: HostInts
    word_of_row: HostInts
    targets: HostInts

    @property
    def tokens(self) -> int:
        """Number of targets that count."""
        return int(np.count_nonzero(self.targets >= 0))

    @classmethod
    def plan(
        cls, captions: np.ndarray[Any, Any], null: int, vocabulary_size: int, kernels: Kernels | None = None
    ) -> PackedCaptions:
        """Check captions and lay them out.

        Parameters
        ----------
        captions : numpy.ndarray of int, shape (N, T + 1)
            Word ids; inputs are all but the last column, targets all but the first.
        null : int
            Id of the word that is not counted as a target.
        vocabulary_size : int
            Ids must be in ``[0, vocabulary_size)``.
        kernels : Kernels, optional
            The kernels that compute the layout; by default the host's. The layout is the same.

        Returns
        -------
        PackedCaptions
            The plan.

        Raises
        ------
        TypeError
            For a dtype that is not an integer.
        ValueError
            For another rank, an empty batch, fewer than two columns, or ids out of range.
        """
        check_captions(captions)
        plan = (kernels or host_kernels()).pack_captions(captions, null, vocabulary_size)
        if plan is None:
            row, column = (int(k) for k in np.argwhere((captions < 0) | (captions >= vocabulary_size))[0])
            raise InvalidValueError(
                f"captions[{row}, {column}]: expected an id in 0..{vocabulary_size - 1}, got {captions[row, column]}."
            )
        order, batch_sizes, words, word_of_row, targets = plan
        return cls(Packing(order, batch_sizes), words, word_of_row, targets)


def check_captions(captions: Array) -> None:
    """Check the dtype and the shape of captions, wherever they live.

    Parameters
    ----------
    captions : array
        Should be integers of shape (N, T + 1), N >= 1, T >= 1.

    Raises
    ------
    TypeError
        For a dtype that is not an integer.
    ValueError
        For another rank, an empty batch, or fewer than two columns.
    """
    if not array_namespace(captions).isdtype(captions.dtype, "integral"):
        raise InvalidTypeError(
            f"captions: expected integer word ids, got dtype {captions.dtype}. Convert: captions.astype(numpy.int64)."
        )
    if captions.ndim != 2 or captions.shape[0] < 1 or captions.shape[1] < 2:
        raise InvalidValueError(
            "captions: expected shape (N, T + 1) with N >= 1 and T >= 1 (an input and a target), got "
            f"{tuple(captions.shape)}."
        )
