"""Kernels whose products round their factors to bfloat16, without a keyword in every call."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from capgpu.kernels.reference import Kernels

__all__ = ["MULTIPLYING", "with_rounded_products"]

#: The operations of the contract that multiply matrices of the model.
MULTIPLYING = (
    "matmul",
    "lstm_forward",
    "lstm_backward",
    "rnn_forward",
    "rnn_backward",
    "attention_lstm_forward",
    "attention_lstm_backward",
    "linear_cross_entropy",
    "decode_step",
    "attention_decode_step",
    "greedy_captions",
)


@functools.cache
def with_rounded_products(kernels: Kernels) -> Kernels:
    """Return kernels whose operations are called with ``precision="bf16"``."""
    operations = {
        name: staticmethod(functools.partial(getattr(kernels, name), precision="bf16")) for name in MULTIPLYING
    }
    rounding: Kernels = type("RoundingKernels", (type(kernels),), operations)()
    return rounding
