"""The device's fused kernels, in CUDA C++, compiled at run time by NVRTC: one ``.cu`` file and one launcher each.

Arguments are CuPy arrays, which launchers make contiguous if necessary. float16 and bfloat16 are storage types: sums,
exponentials and comparisons are computed in float32. The few operations without a kernel are the reference's; bfloat16
arrays are converted to float32 for them, since CuPy's own bfloat16 is incomplete.
"""

from contextlib import AbstractContextManager

from capgpu.kernels.cuda import (
    attention,
    caption_batch,
    decode,
    dropout,
    embedding,
    gemm,
    optimizer,
    recurrence,
    softmax,
)
from capgpu.kernels.half import in_float32
from capgpu.kernels.reference import Kernels

__all__ = ["KERNELS"]


class CudaKernels(Kernels):
    """The operations on a CUDA device."""

    name = "cuda"
    caption_batch = staticmethod(caption_batch.caption_batch)
    matmul = staticmethod(gemm.matmul)
    apply_dropout = staticmethod(dropout.apply_dropout)
    take_rows = staticmethod(embedding.take_rows)
    scatter_rows = staticmethod(embedding.scatter_rows)
    add_rows = staticmethod(embedding.add_rows)
    embedding_gradient = staticmethod(embedding.embedding_gradient)
    column_sums = staticmethod(embedding.column_sums)
    lstm_forward = staticmethod(recurrence.lstm_forward)
    lstm_backward = staticmethod(recurrence.lstm_backward)
    gru_forward = staticmethod(recurrence.gru_forward)
    gru_backward = staticmethod(recurrence.gru_backward)
    rnn_forward = staticmethod(recurrence.rnn_forward)
    rnn_backward = staticmethod(recurrence.rnn_backward)
    attention_lstm_forward = staticmethod(attention.attention_lstm_forward)
    attention_lstm_backward = staticmethod(attention.attention_lstm_backward)
    softmax_cross_entropy = staticmethod(softmax.softmax_cross_entropy)
    linear_cross_entropy = staticmethod(softmax.linear_cross_entropy)
    decode_step = staticmethod(decode.decode_step)
    attention_decode_step = staticmethod(attention.attention_decode_step)
    top_words = staticmethod(in_float32(Kernels.top_words))
    draw_words = staticmethod(in_float32(Kernels.draw_words))
    greedy_captions = staticmethod(decode.greedy_captions)
    adam_update = staticmethod(optimizer.adam_update)
    momentum_update = staticmethod(optimizer.momentum_update)
    gradient_norm = staticmethod(optimizer.gradient_norm)

    def joint_column_sums(self) -> AbstractContextManager[None]:
        """Compute sums of columns together, at the end of a ``with`` block: two launches for all."""
        return embedding.joint_column_sums()


KERNELS = CudaKernels()
