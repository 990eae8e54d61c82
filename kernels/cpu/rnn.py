"""The pointwise mathematics of the vanilla RNN; layout, and what is saved: `capgpu.kernels.cpu.recurrence`.

    h' = tanh(x Wx + b + h Wh);  da = (dh (of the loss) + dh (of the next step)) (1 - h'^2)

Saved: the hidden states.
"""

from __future__ import annotations

from capgpu.kernels.cells import CELLS
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.fast_math import hyperbolic_tangent
from capgpu.kernels.cpu.recurrence import BackwardRow, Cell, ForwardRow, for_any_length, operations
from capgpu.kernels.cpu.simd_pack import pasted

__all__ = ["activate_rnn", "rnn_backward", "rnn_forward"]


@for_any_length
def activate_rnn(row: ForwardRow, begin: int, end: int) -> None:
    """Turn units begin..end-1 of one row of recurrent sums, in the place of the state, into the state."""
    pasted()
    h, projected, bias = row.h[begin:end], row.projected[begin:end], row.bias[begin:end]
    for j in range(h.size):
        h[j] = hyperbolic_tangent(h[j] + (projected[j] + bias[j]))


@compiled()
def _differentiate(row: BackwardRow, begin: int, end: int) -> None:
    pasted()
    # typed: an integer literal would lift float32 to float64
    one = row.h.dtype.type(1)
    dh_output, dh_later = row.dh_output[begin:end], row.dh_later[begin:end]
    h, da = row.h[begin:end], row.da[begin:end]
    for j in range(h.size):
        da[j] = (dh_output[j] + dh_later[j]) * (one - h[j] * h[j])


rnn_forward, rnn_backward = operations(
    Cell(CELLS["rnn"], carries_gradient=False, activate=activate_rnn, differentiate=_differentiate)
)
