"""The device's fused kernels, in CUDA C++, compiled at run time by NVRTC: one ``.cu`` file and one launcher each.

Arrays arrive as CuPy arrays; launchers lay them out contiguously where they are not. `KERNELS` serves float32 and
float64. `HALF_KERNELS` serves float16, with sums in float32: the recurrences and the softmax, on which the time goes;
the other operations are the reference's. NumPy and CuPy have no bfloat16: the same kernels are compiled for it, and
launched by name (`capgpu.kernels.cuda.module.kernel`).
"""

from dataclasses import replace

from capgpu.kernels import Kernels
from capgpu.kernels.cuda.decode import decode_step, greedy_captions
from capgpu.kernels.cuda.embedding import column_sums, embedding_gradient
from capgpu.kernels.cuda.optimizer import adam_update, gradient_norm, momentum_update
from capgpu.kernels.cuda.product import matmul
from capgpu.kernels.cuda.recurrence import lstm_backward, lstm_forward, rnn_backward, rnn_forward
from capgpu.kernels.cuda.softmax import linear_cross_entropy, smoothed_cross_entropy, softmax_cross_entropy
from capgpu.kernels.cuda.whole import caption_gradients
from capgpu.kernels.reference import KERNELS as REFERENCE

__all__ = ["HALF_KERNELS", "KERNELS"]

KERNELS = Kernels(
    name="cuda",
    pack_captions=REFERENCE.pack_captions,  # on the host: captions are host integers
    matmul=matmul,
    lstm_forward=lstm_forward,
    lstm_backward=lstm_backward,
    rnn_forward=rnn_forward,
    rnn_backward=rnn_backward,
    decode_step=decode_step,
    top_words=REFERENCE.top_words,
    softmax_cross_entropy=softmax_cross_entropy,
    linear_cross_entropy=linear_cross_entropy,
    smoothed_cross_entropy=smoothed_cross_entropy,
    embedding_gradient=embedding_gradient,
    column_sums=column_sums,
    adam_update=adam_update,
    momentum_update=momentum_update,
    gradient_norm=gradient_norm,
    caption_gradients=caption_gradients,
    greedy_captions=greedy_captions,
)

HALF_KERNELS = replace(
    REFERENCE,
    name="cuda",
    lstm_forward=lstm_forward,
    lstm_backward=lstm_backward,
    rnn_forward=rnn_forward,
    rnn_backward=rnn_backward,
    softmax_cross_entropy=softmax_cross_entropy,
    linear_cross_entropy=linear_cross_entropy,
    smoothed_cross_entropy=smoothed_cross_entropy,
)
