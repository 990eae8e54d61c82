"""One step of decoding on the host: the recurrence of one step, then the vocabulary projection."""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cpu.lstm import lstm_forward
from capgpu.kernels.cpu.product import matmul
from capgpu.kernels.cpu.rnn import rnn_forward

__all__ = ["decode_step"]


def decode_step(
    projected: Any, rows: Any, h: Any, c: Any, Wh: Any, W_vocab: Any, b_vocab: Any, parents: Any = None
) -> tuple[Any, Any, Any]:
    """Advance all sequences by one word; see `capgpu.kernels.reference.decode_step`."""
    if parents is not None:
        h, c = h[parents], None if c is None else c[parents]
    batch_sizes = np.array([h.shape[0]])
    if c is None:
        h = rnn_forward(projected, rows, h, Wh, batch_sizes)
    else:
        h, c, _ = lstm_forward(projected, rows, h, c, Wh, batch_sizes)
    return matmul(h, W_vocab, b_vocab), h, c
