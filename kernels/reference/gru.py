"""The oracle of the GRU; the loop over the steps is in `capgpu.kernels.reference.recurrence`.

    a = x Wx + b[:3H];  u = h Wh;  r, z = sigmoid(a_r + u_r, a_z + u_z);  q = u_n + b[3H:];  n = tanh(a_n + r q)
    h' = (1 - z) n + z h

    da_n = dh' (1 - z) (1 - n^2);  da_z = dh' (h - n) z (1 - z);  da_r = da_n q r (1 - r)
    du_n = r da_n;  du_z = da_z;  du_r = da_r;  dh = dh' z + du Wh^T

(Cho et al. 2014, in the form of PyTorch and cuDNN, whose reset gate is applied to the candidate's recurrent sum rather
than to h: one product serves the three gates.) Gates lie in the order r, z, n (reset, update, candidate); they are
saved, and q behind them.
"""

from __future__ import annotations

from typing import Any

from capgpu.backend import Array
from capgpu.kernels.cells import CELLS
from capgpu.kernels.reference.recurrence import Cell, Saved, operations, sigmoid

__all__ = ["gru_backward", "gru_forward"]


def _forward(xp: Any, a: Array, u: Array, h: Array, c: None, bias: Any) -> tuple[Array, None, Array]:
    size = h.shape[1]
    rz = sigmoid(xp, a[:, : 2 * size] + u[:, : 2 * size])
    r, z = rz[:, :size], rz[:, size:]
    q = u[:, 2 * size :] + bias
    n = xp.tanh(a[:, 2 * size :] + r * q)
    return (1 - z) * n + z * h, None, xp.concat([rz, n, q], axis=1)


def _backward(xp: Any, dh: Array, dc: Any, saved: Saved) -> tuple[Array, Array, Array, None]:
    size = dh.shape[1]
    r, z, n, q = (saved.gates[:, k * size : (k + 1) * size] for k in range(4))
    da_n = dh * (1 - z) * (1 - n * n)
    da_z = dh * (saved.h_before - n) * z * (1 - z)
    da_r = da_n * q * r * (1 - r)
    da, du = xp.concat([da_r, da_z, da_n], axis=1), xp.concat([da_r, da_z, r * da_n], axis=1)
    return da, du, dh * z, None


gru_forward, gru_backward = operations(Cell(CELLS["gru"], _forward, _backward))
