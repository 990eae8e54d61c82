"""Initial states of packed sequences, one for each sequence of the first step, and one for each of the caller's."""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cpu.workspace import contiguous

__all__ = ["in_callers_order", "initial_states"]


def initial_states(states: Any, order: Any, batch_sizes: Any, bias: Any = None) -> Any:
    """Return the initial states of the sequences of the first step, contiguous.

    Parameters
    ----------
    states : numpy.ndarray, shape (batch_sizes[0], H), or (N, H) with `order`
        Initial states.
    order : numpy.ndarray of int, shape (N,), or None
        Row of `states` for each sequence.
    batch_sizes : numpy.ndarray of int, shape (T,)
        Rows of each step.
    bias : numpy.ndarray, shape (H,), optional
        Added to the states.
    """
    if order is not None:
        states = states[order[: batch_sizes[0] if batch_sizes.size else 0]]
    return contiguous(states if bias is None else states + bias)


def in_callers_order(gradient: Any, order: Any) -> Any:
    """Return the gradient of initial states, zero for sequences without any step, in the caller's order."""
    if order is None:
        return gradient
    out = np.zeros((order.size, gradient.shape[1]), gradient.dtype)
    out[order[: gradient.shape[0]]] = gradient
    return out
