"""The half types for parametrized tests, and the dtype in which sums over their numbers are kept."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

if find_spec("ml_dtypes") is not None:
    import ml_dtypes  # noqa: F401 - makes "bfloat16" a dtype that NumPy finds by its name

BFLOAT16 = pytest.param(
    "bfloat16", marks=pytest.mark.skipif(find_spec("ml_dtypes") is None, reason="ml_dtypes is not installed")
)
HALVES = ("float16", BFLOAT16)
#: Every dtype that the CUDA kernels serve.
ALL = ("float32", "float64", *HALVES)


def sums(dtype: str) -> str:
    """Return the dtype of losses, norms and running means of arrays of a dtype."""
    return "float32" if dtype in ("float16", "bfloat16") else dtype


def loss_or(dtype: str, result: Any) -> str:
    """Return the dtype that a result is to have: without dimensions it is a loss."""
    return sums(dtype) if result.ndim == 0 else dtype
