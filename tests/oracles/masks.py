"""Dropout masks by hashing each position with Python's integers."""

from __future__ import annotations

import functools
import math

import numpy as np

from capgpu.kernels import Dropout
from capgpu.random import fold_key
from oracles.recurrences import Floats

__all__ = ["kept", "plain_mask"]

WORD = (1 << 32) - 1


@functools.cache
def kept(key: int, rate: float, count: int) -> np.ndarray:
    """Return, for each of `count` positions, whether the mask of a key keeps it; read-only."""
    key = fold_key(key, count)
    mask = []
    for bits in range(count):
        for part in (key & WORD, key >> 32):
            bits ^= part
            bits = ((bits ^ (bits >> 16)) * 0x7FEB352D) & WORD
            bits = ((bits ^ (bits >> 15)) * 0x846CA68B) & WORD
            bits ^= bits >> 16
        mask.append(bits >= min(round(rate * 2**32), WORD))
    kept_elements = np.array(mask, dtype=bool)
    kept_elements.flags.writeable = False
    return kept_elements


def plain_mask(dropout: Dropout | None, shape: tuple[int, ...]) -> Floats:
    """Return a mask of float64; ones for no dropout."""
    if dropout is None:
        return np.ones(shape)
    return kept(dropout.key, dropout.rate, math.prod(shape)).reshape(shape) / (1 - dropout.rate)
