"""The pointwise mathematics of the GRU; layout, and what is saved: `capgpu.kernels.cpu.recurrence`.

    a = x Wx + b[:3H];  u = h Wh;  r, z = sigmoid(a_r + u_r, a_z + u_z);  q = u_n + b[3H:];  n = tanh(a_n + r q)
    h' = (1 - z) n + z h

    dh'  = dh (of the next step: through its product, and dh' z of it) + dh (of the loss)
    da_n = dh' (1 - z) (1 - n^2);  da_z = dh' (h - n) z (1 - z);  da_r = da_n q r (1 - r)
    du_n = r da_n;  du_z = da_z;  du_r = da_r

Saved: r, z, n and q. The part dh' z of dh is carried where the LSTM carries dc.
"""

from __future__ import annotations

from capgpu.kernels.cells import CELLS
from capgpu.kernels.cpu.fast_math import hyperbolic_tangent, multiply_add, sigmoid
from capgpu.kernels.cpu.recurrence import BackwardRow, Cell, ForwardRow, for_any_length, operations
from capgpu.kernels.cpu.simd_pack import pasted

__all__ = ["activate_gru", "gru_backward", "gru_forward"]


@for_any_length
def activate_gru(row: ForwardRow, begin: int, end: int) -> None:
    """Turn units begin..end-1 of one row of recurrent sums into activated gates, q and the state."""
    pasted()
    size = row.h.size
    # typed: an integer literal would lift float32 to float64
    one = row.h.dtype.type(1)
    for gate in range(2):
        first, last = gate * size + begin, gate * size + end
        a, projected, bias = row.sums[first:last], row.projected[first:last], row.bias[first:last]
        for j in range(a.size):
            a[j] = sigmoid(a[j] + (projected[j] + bias[j]))
    r, z = row.sums[begin:end], row.sums[size + begin : size + end]
    n, q = row.sums[2 * size + begin : 2 * size + end], row.sums[3 * size + begin : 3 * size + end]
    projected, bias = row.projected[2 * size + begin : 2 * size + end], row.bias[2 * size + begin : 2 * size + end]
    q_bias = row.bias[3 * size + begin : 3 * size + end]
    h_before, h = row.c_before[begin:end], row.h[begin:end]
    for j in range(n.size):
        q[j] = n[j] + q_bias[j]
    for j in range(n.size):
        n[j] = hyperbolic_tangent(multiply_add(r[j], q[j], projected[j] + bias[j]))
    for j in range(n.size):
        h[j] = multiply_add(z[j], h_before[j], (one - z[j]) * n[j])


@for_any_length
def _differentiate(row: BackwardRow, begin: int, end: int) -> None:
    pasted()
    size = row.h.size
    one = row.h.dtype.type(1)
    r, z = row.gates[begin:end], row.gates[size + begin : size + end]
    n, q = row.gates[2 * size + begin : 2 * size + end], row.gates[3 * size + begin : 3 * size + end]
    du_r, du_z = row.da[begin:end], row.da[size + begin : size + end]
    da_r, da_z = row.da_input[begin:end], row.da_input[size + begin : size + end]
    du_n, da_n = row.da[2 * size + begin : 2 * size + end], row.da_input[2 * size + begin : 2 * size + end]
    dh_output, h_before = row.dh_output[begin:end], row.h[begin:end]
    dh, carried = row.dh_later[begin:end], row.dc[begin:end]
    for j in range(n.size):
        dh[j] += carried[j] + dh_output[j]
    for j in range(n.size):
        da_n[j] = dh[j] * (one - z[j]) * (one - n[j] * n[j])
    for j in range(n.size):
        du_n[j] = r[j] * da_n[j]
    for j in range(n.size):
        da_r[j] = da_n[j] * q[j] * r[j] * (one - r[j])
    for j in range(n.size):
        du_r[j] = da_r[j]
    for j in range(n.size):
        da_z[j] = dh[j] * (h_before[j] - n[j]) * z[j] * (one - z[j])
    for j in range(n.size):
        du_z[j] = da_z[j]
    for j in range(n.size):
        carried[j] = dh[j] * z[j]


gru_forward, gru_backward = operations(
    Cell(CELLS["gru"], carries_gradient=True, activate=activate_gru, differentiate=_differentiate)
)
