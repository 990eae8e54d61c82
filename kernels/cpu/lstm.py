"""The pointwise mathematics of the LSTM; layout, and what is saved: `capgpu.kernels.cpu.recurrence`.

    a = x Wx + b + h Wh;  i, f, o = sigmoid(a_i, a_f, a_o);  g = tanh(a_g);  c' = f c + i g;  h' = o tanh(c')

    dc'  = dc (of the next step) + dc (of the loss) + dh' o (1 - tanh(c')^2)
    da_i = dc' g i (1 - i);  da_f = dc' c f (1 - f);  da_o = dh' tanh(c') o (1 - o);  da_g = dc' i (1 - g^2)
    dc   = dc' f

Saved: the activated gates in the order i, f, o, g, and c. tanh(c') is computed again.

Both functions are short loops over plain slices, so that each one vectorizes: an index with an offset might be negative
for all that the compiler knows, and would be tested each time.
"""

from __future__ import annotations

from capgpu.kernels.cells import CELLS
from capgpu.kernels.cpu.fast_math import hyperbolic_tangent, multiply_add, sigmoid
from capgpu.kernels.cpu.recurrence import BackwardRow, Cell, ForwardRow, for_any_length, operations
from capgpu.kernels.cpu.simd_pack import pasted

__all__ = ["activate_lstm", "differentiate_lstm", "lstm_backward", "lstm_forward"]


@for_any_length
def activate_lstm(row: ForwardRow, begin: int, end: int) -> None:
    """Turn units begin..end-1 of one row of recurrent sums into activated gates and states."""
    pasted()
    size = row.c.size
    for gate in range(3):
        first, last = gate * size + begin, gate * size + end
        a, projected, bias = row.sums[first:last], row.projected[first:last], row.bias[first:last]
        for j in range(a.size):
            a[j] = sigmoid(a[j] + (projected[j] + bias[j]))
    i, f = row.sums[begin:end], row.sums[size + begin : size + end]
    o, g = row.sums[2 * size + begin : 2 * size + end], row.sums[3 * size + begin : 3 * size + end]
    projected, bias = row.projected[3 * size + begin : 3 * size + end], row.bias[3 * size + begin : 3 * size + end]
    c_before, c, h = row.c_before[begin:end], row.c[begin:end], row.h[begin:end]
    for j in range(g.size):
        g[j] = hyperbolic_tangent(g[j] + (projected[j] + bias[j]))
    for j in range(g.size):
        c[j] = multiply_add(f[j], c_before[j], i[j] * g[j])
    for j in range(g.size):
        h[j] = o[j] * hyperbolic_tangent(c[j])


@for_any_length
def differentiate_lstm(row: BackwardRow, begin: int, end: int) -> None:
    """Make the gradients of units begin..end-1 of one row's pre-activations, and of the cell state before it."""
    pasted()
    size = row.c.size
    # typed: an integer literal would lift float32 to float64
    one = row.c.dtype.type(1)
    i, f = row.gates[begin:end], row.gates[size + begin : size + end]
    o, g = row.gates[2 * size + begin : 2 * size + end], row.gates[3 * size + begin : 3 * size + end]
    di, df = row.da[begin:end], row.da[size + begin : size + end]
    do, dg = row.da[2 * size + begin : 2 * size + end], row.da[3 * size + begin : 3 * size + end]
    dh_output, dc_output = row.dh_output[begin:end], row.dc_output[begin:end]
    dh, dc = row.dh_later[begin:end], row.dc[begin:end]
    c_before, c, tanh_c = row.c_before[begin:end], row.c[begin:end], row.scratch[begin:end]
    for j in range(i.size):
        tanh_c[j] = hyperbolic_tangent(c[j])
    for j in range(i.size):
        dh[j] += dh_output[j]
    for j in range(i.size):
        do[j] = dh[j] * tanh_c[j] * o[j] * (one - o[j])
    for j in range(i.size):
        dc[j] += dh[j] * o[j] * (one - tanh_c[j] * tanh_c[j]) + dc_output[j]
    for j in range(i.size):
        di[j] = dc[j] * g[j] * i[j] * (one - i[j])
    for j in range(i.size):
        dg[j] = dc[j] * i[j] * (one - g[j] * g[j])
    for j in range(i.size):
        df[j] = dc[j] * c_before[j] * f[j] * (one - f[j])
    for j in range(i.size):
        dc[j] *= f[j]


lstm_forward, lstm_backward = operations(
    Cell(CELLS["lstm"], carries_gradient=True, activate=activate_lstm, differentiate=differentiate_lstm)
)
