"""The oracle of products whose factors are rounded."""

from __future__ import annotations

from capgpu.backend import Array, array_namespace
from capgpu.kernels.contract import Precision, check_precision

__all__ = ["product", "rounded"]

#: 2**16 + 1: splits the 24 significant bits of a float32 into 8 and the rest.
SPLIT = 65537.0
#: Numbers beyond this, about 2**100, are split at a smaller scale: their product with `SPLIT` would overflow.
GREAT = 1e30


def rounded(array: Array, precision: Precision) -> Array:
    """Return a factor of a product as that reads it.

    Parameters
    ----------
    array : array
        Any shape; of float32 for ``"bf16"``.
    precision : {"float32", "bf16"}
        ``"float32"`` returns the array itself.

    Returns
    -------
    array
        In the same dtype; for ``"bf16"`` with 8 significant bits: to nearest, ties to even. Infinities and NaN stay.

    Raises
    ------
    ValueError
        For an unknown precision.
    TypeError
        For ``"bf16"`` where the dtype is not float32.

    Notes
    -----
    Veltkamp's splitting (Dekker 1971), which array libraries without access to bits can do.
    """
    check_precision(precision, array.dtype)
    if precision == "float32":
        return array
    xp = array_namespace(array)
    finite = xp.isfinite(array)
    scale = xp.where(xp.abs(array) > GREAT, xp.full_like(array, 2.0**-32), xp.ones_like(array))
    scaled = xp.where(finite, array, xp.zeros_like(array)) * scale
    wide = scaled * SPLIT
    upper = (wide - (wide - scaled)) / scale
    return xp.where(finite, upper, array)


def product(a: Array, b: Array, precision: Precision) -> Array:
    """Return ``a @ b``, factors rounded as `rounded` does."""
    return rounded(a, precision) @ rounded(b, precision)
