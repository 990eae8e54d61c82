"""The host's fused kernels, compiled by Numba: one file an operation, on one thread pool.

Arrays arrive as NumPy arrays of float32 or float64; the wrappers lay them out contiguously where they are not.
"""

from capgpu.kernels import Kernels
from capgpu.kernels.cpu.captions import pack_captions
from capgpu.kernels.cpu.compile_notice import notice
from capgpu.kernels.cpu.decode import decode_step
from capgpu.kernels.cpu.dropout import take_rows
from capgpu.kernels.cpu.embedding import column_sums, embedding_gradient
from capgpu.kernels.cpu.greedy import greedy_captions
from capgpu.kernels.cpu.lstm import lstm_backward, lstm_forward
from capgpu.kernels.cpu.optimizer import adam_update, gradient_norm, momentum_update
from capgpu.kernels.cpu.product import matmul
from capgpu.kernels.cpu.rnn import rnn_backward, rnn_forward
from capgpu.kernels.cpu.softmax import linear_cross_entropy, softmax_cross_entropy
from capgpu.kernels.cpu.whole import caption_gradients
from capgpu.kernels.cpu.words import top_words

__all__ = ["KERNELS", "notice"]

KERNELS = Kernels(
    name="cpu",
    pack_captions=pack_captions,
    matmul=matmul,
    lstm_forward=lstm_forward,
    lstm_backward=lstm_backward,
    rnn_forward=rnn_forward,
    rnn_backward=rnn_backward,
    decode_step=decode_step,
    top_words=top_words,
    softmax_cross_entropy=softmax_cross_entropy,
    linear_cross_entropy=linear_cross_entropy,
    take_rows=take_rows,
    embedding_gradient=embedding_gradient,
    column_sums=column_sums,
    adam_update=adam_update,
    momentum_update=momentum_update,
    gradient_norm=gradient_norm,
    caption_gradients=caption_gradients,
    greedy_captions=greedy_captions,
)
