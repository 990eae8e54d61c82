"""The oracle of the LSTM; the loop over the steps is in `capgpu.kernels.reference.recurrence`.

    a = x Wx + b + h Wh;  i, f, o = sigmoid(a_i, a_f, a_o);  g = tanh(a_g);  c' = f c + i g;  h' = o tanh(c')

    dc'  = dc (of the next step) + dc (of the loss) + dh' o (1 - tanh(c')^2)
    da_i = dc' g i (1 - i);  da_f = dc' c f (1 - f);  da_o = dh' tanh(c') o (1 - o);  da_g = dc' i (1 - g^2)
    dc   = dc' f

(Hochreiter and Schmidhuber 1997, with the forget gate of Gers et al. 2000). Gates lie in the order i, f, o, g (input,
forget, output, candidate); all four are saved.
"""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.kernels.cells import CELLS
from capgpu.kernels.reference.recurrence import Cell, Saved, operations, padded_add, sigmoid

__all__ = ["lstm_backward", "lstm_forward"]


def _forward(xp: Any, a: Array, u: Array, h: Array, c: Array, bias: None) -> tuple[Array, Array, Array]:
    size = h.shape[1]
    a = a + u
    ifo = sigmoid(xp, a[:, : 3 * size])
    i, f, o = ifo[:, :size], ifo[:, size : 2 * size], ifo[:, 2 * size :]
    g = xp.tanh(a[:, 3 * size :])
    c = f * c + i * g
    return o * xp.tanh(c), c, xp.concat([ifo, g], axis=1)


def _backward(xp: Any, dh: Array, dc: Array, saved: Saved) -> tuple[Array, Array, None, Array]:
    size = dh.shape[1]
    i, f, o, g = (saved.gates[:, k * size : (k + 1) * size] for k in range(4))
    tanh_c = xp.tanh(saved.c)
    dc_here = dh * o * (1 - tanh_c * tanh_c)
    if saved.dcell is not None:
        dc_here = dc_here + saved.dcell
    dc = padded_add(xp, dc_here, dc)
    da = xp.concat(
        [
            dc * g * i * (1 - i),
            dc * saved.c_before * f * (1 - f),
            dh * tanh_c * o * (1 - o),
            dc * i * (1 - g * g),
        ],
        axis=1,
    )
    return da, da, None, dc * f


lstm_forward, lstm_backward = operations(Cell(CELLS["lstm"], _forward, _backward))
