"""The pointwise mathematics of the vanilla RNN; layout, and what is saved: `capgpu.kernels.cpu.recurrence`.

    h' = tanh(x Wx + b + h Wh);  da = (dh (of the loss) + dh (of the next step)) (1 - h'^2)

Saved: the hidden states.
"""

from __future__ import annotations

from typing import Any

from capgpu.kernels.contract import Precision, States
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.fast_math import hyperbolic_tangent
from capgpu.kernels.cpu.recurrence import (
    BackwardRow,
    Cell,
    ForwardRow,
    backward_job,
    for_any_length,
    forward_job,
    run_backward,
    run_forward,
)
from capgpu.kernels.cpu.simd_pack import pasted

__all__ = ["activate_rnn", "rnn_backward", "rnn_forward"]


@for_any_length
def activate_rnn(row: ForwardRow, begin: int, end: int) -> None:
    """Turn units begin..end-1 of one row of recurrent sums, in the place of the state, into the state."""
    pasted()
    h, projected, bias = row.h[begin:end], row.projected[begin:end], row.bias[begin:end]
    for j in range(h.size):
        h[j] = hyperbolic_tangent(h[j] + (projected[j] + bias[j]))


@compiled(allocates=False)
def _differentiate(row: BackwardRow, begin: int, end: int) -> None:
    pasted()
    # typed: an integer literal would lift float32 to float64
    one = row.h.dtype.type(1)
    dh_output, dh_later = row.dh_output[begin:end], row.dh_later[begin:end]
    h, da = row.h[begin:end], row.da[begin:end]
    for j in range(h.size):
        da[j] = (dh_output[j] + dh_later[j]) * (one - h[j] * h[j])


_RNN = Cell(
    n_gates=1,
    n_biases=1,
    n_saved=0,
    has_state=False,
    carries_gradient=False,
    splits_gradient=False,
    activate=activate_rnn,
    differentiate=_differentiate,
)
_forward, _backward = forward_job(_RNN), backward_job(_RNN)


def rnn_forward(
    projected: Any,
    rows: Any,
    h0: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    bias: Any = None,
    h0_bias: Any = None,
    order: Any = None,
    precision: Precision = "float32",
) -> States:
    """Run a vanilla RNN over packed sequences; see `capgpu.kernels.reference.rnn_forward`."""
    return run_forward(
        _RNN,
        _forward,
        projected,
        rows,
        h0,
        None,
        Wh,
        batch_sizes,
        bias=bias,
        h0_bias=h0_bias,
        order=order,
        precision=precision,
    )


def rnn_backward(
    dhidden: Any,
    hidden: Any,
    Wh: Any,
    batch_sizes: Any,
    *,
    order: Any = None,
    precision: Precision = "float32",
) -> tuple[Any, Any]:
    """Run the RNN's recurrence backward; see `capgpu.kernels.reference.rnn_backward`."""
    dprojected, _, dh0, _ = run_backward(
        _RNN, _backward, dhidden, Wh, batch_sizes, order=order, precision=precision, hidden=hidden
    )
    return dprojected, dh0
