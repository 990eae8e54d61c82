"""Operations on bfloat16 arrays for which there is no kernel of that dtype: computed in float32, and rounded.

NumPy and CuPy compute with bfloat16 in part only: a Python float makes float32 of it, and in CuPy 14 so do ``where``
and ``clip``. The reference's code would return other dtypes than it was handed.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from capgpu.backend import array_namespace
from capgpu.dtypes import is_bfloat16
from capgpu.kernels.contract import DecodingWeights

if TYPE_CHECKING:
    from capgpu.kernels.reference import Kernels

__all__ = ["in_float32", "kernels_in_float32"]

#: Operations whose definition computes in float32 by itself where it is handed a half type.
_BY_THEMSELVES = ("adam_update", "momentum_update", "gradient_norm")
#: Operations without floating results.
_ON_INTEGERS = ("pack_captions", "caption_batch")


def in_float32(operation: Callable[..., Any]) -> Callable[..., Any]:
    """Return an operation that also serves bfloat16 arrays, computed in float32.

    Parameters
    ----------
    operation : callable
        Takes arrays, `DecodingWeights`, and other values.

    Returns
    -------
    callable
        Converts bfloat16 arguments to float32, and float32 results back; those without dimensions (losses) stay
        float32. Calls without a bfloat16 argument are passed on as they are.
    """

    @functools.wraps(operation)
    def call(*args: Any, **kwargs: Any) -> Any:
        like = next(filter(None, map(_bfloat16_of, (*args, *kwargs.values()))), None)
        if like is None:
            return operation(*args, **kwargs)
        xp, dtype = like
        results = operation(*(_wide(arg, xp) for arg in args), **{k: _wide(v, xp) for k, v in kwargs.items()})
        return _rounded(results, xp, dtype)

    return call


@functools.cache
def kernels_in_float32(kernels: Kernels) -> Kernels:
    """Return kernels whose every operation serves bfloat16 arrays: through `in_float32`, updates by the reference."""
    from capgpu.kernels.reference import KERNELS, OPERATIONS

    converted = {name: in_float32(getattr(kernels, name)) for name in OPERATIONS if name not in _ON_INTEGERS}
    converted |= {name: getattr(KERNELS, name) for name in _BY_THEMSELVES}
    operations = {name: staticmethod(operation) for name, operation in converted.items()}
    in_float32_kernels: Kernels = type("KernelsInFloat32", (type(kernels),), operations)()
    return in_float32_kernels


def _bfloat16_of(value: Any) -> tuple[Any, Any] | None:
    """Return namespace and dtype of the first bfloat16 array in an argument."""
    for array in value if isinstance(value, tuple) else (value,):
        if is_bfloat16(getattr(array, "dtype", None)):
            return array_namespace(array), array.dtype
    return None


def _wide(value: Any, xp: Any) -> Any:
    if isinstance(value, DecodingWeights):
        return DecodingWeights(*(_wide(array, xp) for array in value))
    return xp.astype(value, xp.float32) if is_bfloat16(getattr(value, "dtype", None)) else value


def _rounded(value: Any, xp: Any, dtype: Any) -> Any:
    if isinstance(value, tuple):
        rounded = (_rounded(array, xp, dtype) for array in value)
        return type(value)(*rounded) if hasattr(value, "_fields") else tuple(rounded)
    if getattr(value, "dtype", None) != xp.float32 or value.ndim == 0:
        return value
    return xp.astype(value, dtype)
