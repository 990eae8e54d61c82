"""The oracle: every operation of the contract in plain array-namespace code.

Runs on NumPy, CuPy and any library of the array API standard. Fused kernels are checked against it, it documents
what they must do, and it serves every dtype and shape that they do not.
"""

from capgpu.kernels import Kernels
from capgpu.kernels.reference.captions import pack_captions
from capgpu.kernels.reference.decode import decode_step
from capgpu.kernels.reference.embedding import column_sums, embedding_gradient, take_rows
from capgpu.kernels.reference.optimizer import adam_update, gradient_norm, momentum_update
from capgpu.kernels.reference.product import matmul
from capgpu.kernels.reference.recurrence import lstm_backward, lstm_forward, rnn_backward, rnn_forward
from capgpu.kernels.reference.softmax import linear_cross_entropy, softmax_cross_entropy
from capgpu.kernels.reference.whole import caption_gradients, greedy_captions
from capgpu.kernels.reference.words import top_words

__all__ = ["KERNELS"]

KERNELS = Kernels(
    name="reference",
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
