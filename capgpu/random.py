"""Random numbers that are equal on every backend.

Parameters are drawn once on the host and transferred. Masks that change at every step (dropout) are computed by a
counter-based generator on the device of the data: a pure function of (key, position), without transfer or state, and
with the same bits on a CPU and on a GPU.
"""

from __future__ import annotations

from operator import index
from typing import Any, NamedTuple

import numpy as np

from capgpu.backend import Array, array_namespace, asarray
from capgpu.dtypes import floating_dtype

__all__ = ["Generator", "MaskRule", "dropout_mask", "fold_key", "mask_rule", "uniform"]

_MASK64 = (1 << 64) - 1


class Generator:
    """Generator of seeded normal numbers, created on the current backend and equal on all backends.

    Parameters
    ----------
    seed : int, optional
        The same seed gives the same numbers; ``None`` takes fresh entropy from the system.
    """

    def __init__(self, seed: int | None = None) -> None:
        self._host = np.random.default_rng(seed)

    def normal(self, shape: tuple[int, ...], scale: float, dtype: Any) -> Array:
        """Draw normal numbers of mean 0.

        Parameters
        ----------
        shape : tuple of int
            Shape of the result.
        scale : float
            Standard deviation.
        dtype : dtype
            Floating dtype of the result; drawn in float64 and rounded once.

        Returns
        -------
        array
            On the current backend.
        """
        return asarray((self._host.standard_normal(shape) * scale).astype(floating_dtype(dtype)))


def fold_key(key: int, data: int) -> int:
    """Derive a new 64-bit key from a key and a number (a step, a layer), well mixed.

    Parameters
    ----------
    key, data : int
        Any integers; taken modulo 2**64.

    Returns
    -------
    int
        A key in ``[0, 2**64)``.

    Notes
    -----
    The finaliser is that of SplitMix64 (Steele, Lea and Flood, 2014).
    """
    # NumPy's integers would overflow in what follows
    z = (index(key) + 0x9E3779B97F4A7C15 * (index(data) + 1)) & _MASK64
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK64
    return z ^ (z >> 31)


class MaskRule(NamedTuple):
    """How a dropout mask is computed from the positions of its elements: what a fused kernel needs.

    Attributes
    ----------
    first, second : int
        Words of 32 bits, combined by exclusive or with the position before the first and with the bits before the
        second round of the hash.
    threshold : int
        Elements whose hash is at least this are kept.
    factor : float
        Value of the mask where an element is kept: ``1 / (1 - rate)``, rounded to the mask's dtype.
    """

    first: int
    second: int
    threshold: int
    factor: float


def mask_rule(key: int, rate: float, count: int) -> MaskRule:
    """Return the rule by which `dropout_mask` computes a mask of `count` elements.

    Parameters
    ----------
    key, rate
        As for `dropout_mask`.
    count : int
        Elements of the mask.

    Returns
    -------
    MaskRule
        The same on every backend.
    """
    key = fold_key(key, count)
    # an integer threshold: the decision is exact, and equal whatever the floating dtype
    threshold = min(round(rate * 2**32), 2**32 - 1)
    return MaskRule(key & 0xFFFFFFFF, key >> 32, threshold, 1.0 / (1.0 - rate))


def dropout_mask(
    key: int,
    rate: float,
    shape: tuple[int, ...],
    like: Array,
    rows: Array | None = None,
    size: int | None = None,
) -> Array:
    """Draw an inverted-dropout mask: 0 with probability `rate`, else ``1 / (1 - rate)``.

    Parameters
    ----------
    key : int
        The same key gives the same mask, on every backend.
    rate : float
        Probability of dropping, in ``[0, 1)``.
    shape : tuple of int
        Shape of the mask.
    like : array
        The mask gets this array's library, device and dtype.
    rows : array of int, shape (M,), optional
        For a `shape` of (M, W): draw these rows of a larger mask.
    size : int, optional
        Elements of that larger mask; needed with `rows`.

    Returns
    -------
    array
        The mask; multiply by it in the forward and in the backward pass.

    Notes
    -----
    Position and key are mixed by two rounds of a 32-bit multiply-xorshift hash (constants found by C.
    Wellons' hash prospector, "lowbias32").
    """
    xp = array_namespace(like)
    count = 1
    for extent in shape:
        count *= extent
    rule = mask_rule(key, rate, count if size is None else size)
    if rows is None:
        bits = xp.arange(count, dtype=xp.uint32, device=like.device)
    else:
        columns = xp.arange(shape[1], dtype=xp.uint32, device=like.device)
        bits = xp.reshape(xp.astype(rows, xp.uint32)[:, None] * shape[1] + columns[None, :], (-1,))
    bits = _hash32(bits ^ rule.first)
    bits = _hash32(bits ^ rule.second)
    mask = xp.astype(bits >= rule.threshold, like.dtype) * rule.factor
    # a Python float makes float32 of bfloat16
    return xp.reshape(xp.astype(mask, like.dtype, copy=False), shape)


def uniform(key: int, positions: Array, like: Array) -> Array:
    """Draw numbers in ``[0, 1)``: a function of key and position alone.

    Parameters
    ----------
    key : int
        The same key gives the same numbers, on every backend.
    positions : array of int, shape (N,)
        Positions in the key's endless row of numbers, in the library and on the device of `like`.
    like : array
        The numbers get this array's library, device and dtype (float32 or float64).

    Returns
    -------
    array, shape (N,)
        Multiples of 2**-24, the same in both dtypes.
    """
    xp = array_namespace(like)
    key = fold_key(key, 0)
    bits = _hash32(xp.astype(positions, xp.uint32) ^ (key & 0xFFFFFFFF))
    bits = _hash32(bits ^ (key >> 32))
    return xp.astype(bits >> 8, like.dtype) * 2.0**-24


def _hash32(bits: Array) -> Array:
    bits = (bits ^ (bits >> 16)) * 0x7FEB352D
    bits = (bits ^ (bits >> 15)) * 0x846CA68B
    return bits ^ (bits >> 16)
