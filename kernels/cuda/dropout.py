"""Dropout on the device; the kernel is in dropout.cu."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from capgpu.kernels.contract import Dropout
from capgpu.kernels.cuda.array_checks import NULL, check_device, contiguous, empty, indices
from capgpu.kernels.cuda.compile import kernel
from capgpu.kernels.cuda.constants import PACK_BYTES, THREADS
from capgpu.random import mask_rule

__all__ = ["StoredDropout", "apply_dropout", "drop_into"]


@dataclass(frozen=True)
class StoredDropout(Dropout):
    """Dropout whose key is read from the device when the kernel runs: a CUDA graph would repeat a key by value.

    Attributes
    ----------
    rows : array of int32, shape (M,), optional
        As for `Dropout`: padding moves rows to other positions. Rows that are not read may have any number.
    words : array of uint32, shape (2,)
        ``first`` and ``second`` of `capgpu.random.mask_rule`. `key` and `size` are not used.
    """

    words: Any = None


def apply_dropout(array: Any, dropout: Dropout) -> Any:
    """Multiply an array by a dropout mask; see `capgpu.kernels.reference.apply_dropout`. One launch.

    Raises OverflowError for an array of 2**32 elements or more: positions have 32 bits.
    """
    check_device(array=array)
    out = empty(array.shape, array.dtype, "an array after dropout")
    if out.size:
        drop_into(contiguous(array), dropout, out)
    return out


def drop_into(array: Any, dropout: Dropout, out: Any) -> None:
    """Multiply an array by its dropout mask, ``out = array * mask``; one launch.

    Parameters
    ----------
    array : array
        C-contiguous, below 2**32 elements.
    dropout : Dropout
        Key and rate. The mask is `capgpu.random.dropout_mask` of `array`'s shape and dtype, or of the rows that are
        given; it is not stored.
    out : array
        Shaped like `array`, C-contiguous; written. It may be `array` itself.

    Raises
    ------
    OverflowError
        For an array of 2**32 elements or more: positions have 32 bits.
    """
    dtype = array.dtype
    rule = mask_rule(dropout.key, dropout.rate, array.size if dropout.size is None else dropout.size)
    # rounded to the storage type first, as the mask's elements are
    factor = (np.float64 if dtype.char == "d" else np.float32)(dtype.type(rule.factor))
    words = [np.uint32(word) for word in (array.size, rule.first, rule.second, rule.threshold)]
    per_block = THREADS * (PACK_BYTES // dtype.itemsize)
    stored_words = dropout.words if isinstance(dropout, StoredDropout) else NULL
    rows = NULL if dropout.rows is None else indices(dropout.rows)
    width = np.uint32(array.shape[-1])
    kernel("dropout", dtype)(
        -(-array.size // per_block), THREADS, (array, out, *words, factor, stored_words, rows, width)
    )
