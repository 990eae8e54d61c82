"""The host's fused kernels, compiled by Numba: one file an operation, on one thread pool.

Arrays arrive as NumPy arrays of float32 or float64; the wrappers lay them out contiguously where they are not.
"""

from typing import Any

from capgpu.kernels.cpu import (
    attention,
    compile_ahead,
    decode,
    dropout,
    embedding,
    gemm,
    greedy,
    gru,
    lstm,
    optimizer,
    rnn,
    softmax,
    top_k,
)
from capgpu.kernels.cpu.compile_notice import notice
from capgpu.kernels.cpu.draw_words import draw_words
from capgpu.kernels.cpu.pack_captions import caption_batch, pack_captions
from capgpu.kernels.reference import Kernels

__all__ = ["KERNELS", "notice"]


class CpuKernels(Kernels):
    """The operations on the host, compiled."""

    name = "cpu"
    pack_captions = staticmethod(pack_captions)
    caption_batch = staticmethod(caption_batch)
    matmul = staticmethod(gemm.matmul)
    apply_dropout = staticmethod(dropout.apply_dropout)
    take_rows = staticmethod(embedding.take_rows)
    scatter_rows = staticmethod(embedding.scatter_rows)
    add_rows = staticmethod(embedding.add_rows)
    embedding_gradient = staticmethod(embedding.embedding_gradient)
    column_sums = staticmethod(embedding.column_sums)
    lstm_forward = staticmethod(lstm.lstm_forward)
    lstm_backward = staticmethod(lstm.lstm_backward)
    rnn_forward = staticmethod(rnn.rnn_forward)
    rnn_backward = staticmethod(rnn.rnn_backward)
    gru_forward = staticmethod(gru.gru_forward)
    gru_backward = staticmethod(gru.gru_backward)
    attention_lstm_forward = staticmethod(attention.attention_lstm_forward)
    attention_lstm_backward = staticmethod(attention.attention_lstm_backward)
    softmax_cross_entropy = staticmethod(softmax.softmax_cross_entropy)
    linear_cross_entropy = staticmethod(softmax.linear_cross_entropy)
    decode_step = staticmethod(decode.decode_step)
    attention_decode_step = staticmethod(attention.attention_decode_step)
    top_words = staticmethod(top_k.top_words)
    draw_words = staticmethod(draw_words)
    greedy_captions = staticmethod(greedy.greedy_captions)
    adam_update = staticmethod(optimizer.adam_update)
    momentum_update = staticmethod(optimizer.momentum_update)
    gradient_norm = staticmethod(optimizer.gradient_norm)

    def announce(self, operations: tuple[str, ...], dtype: Any, *, parameters: int = 0, later: bool = False) -> None:
        """Start a process that compiles missing kernels of operations; see `capgpu.kernels.reference.Kernels`."""
        compile_ahead.announce(operations, dtype, parameters, later)


KERNELS = CpuKernels()
