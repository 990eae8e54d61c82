"""Snapshots of the bytes of values, to compare results bit by bit and to detect changed arguments."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np

from capgpu.backend import to_numpy


def frozen(tree: Any) -> Any:
    """Return a comparable copy of nested tuples, lists and dicts of arrays: dtype, shape and digest of each."""
    if isinstance(tree, dict):
        return {key: frozen(value) for key, value in tree.items()}
    if isinstance(tree, (tuple, list)):
        return [frozen(value) for value in tree]
    if hasattr(tree, "dtype") and hasattr(tree, "shape"):
        host = np.array(to_numpy(tree))
        return (host.dtype.str, host.shape, hashlib.sha256(host.tobytes()).hexdigest())
    return tree
