"""Relative errors between results, and gradients by finite differences."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from oracles.recurrences import Floats

#: Norm-wise tolerances of forward results and of gradients, by dtype.
TOLERANCE = {
    "bfloat16": {"forward": 2e-2, "gradient": 5e-2},
    "float16": {"forward": 5e-3, "gradient": 2e-2},
    "float32": {"forward": 1e-5, "gradient": 1e-4},
    "float64": {"forward": 1e-10, "gradient": 1e-10},
}


def distance(actual: Any, expected: Any) -> float:
    """Return ``|got - want| / |want|`` (norms over all entries), or ``|got|`` where zero is wanted."""
    actual, expected = np.asarray(actual, dtype=np.float64), np.asarray(expected, dtype=np.float64)
    assert actual.shape == expected.shape, f"shape {actual.shape}, wanted {expected.shape}"
    assert np.isfinite(actual).all(), "not finite"
    return float(np.linalg.norm(actual - expected) / (np.linalg.norm(expected) or 1.0))


def numeric_gradient(function: Callable[[Floats], Any], x: Floats, upstream: Any = 1.0, step: float = 1e-5) -> Floats:
    """Return the gradient of ``sum(function(x) * upstream)`` by central differences."""
    x = np.array(x, dtype=np.float64)
    gradient = np.zeros_like(x)
    for index in np.ndindex(x.shape):
        original = x[index]
        values = []
        for shifted in (original + step, original - step):
            x[index] = shifted
            values.append(np.asarray(function(x.copy()), dtype=np.float64))
        x[index] = original
        gradient[index] = np.sum((values[0] - values[1]) * upstream) / (2 * step)
    return gradient
