"""The oracle of the vanilla RNN; the loop over the steps is in `capgpu.kernels.reference.recurrence`.

    h' = tanh(x Wx + b + h Wh);  da = dh' (1 - h'^2)

(Elman 1990). No gates are saved.
"""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.kernels.cells import CELLS
from capgpu.kernels.reference.recurrence import Cell, Saved, operations

__all__ = ["rnn_backward", "rnn_forward"]


def _forward(xp: Any, a: Array, u: Array, h: Array, c: None, bias: None) -> tuple[Array, None, None]:
    return xp.tanh(a + u), None, None


def _backward(xp: Any, dh: Array, dc: Any, saved: Saved) -> tuple[Array, Array, None, None]:
    da = dh * (1 - saved.h * saved.h)
    return da, da, None, None


rnn_forward, rnn_backward = operations(Cell(CELLS["rnn"], _forward, _backward))
