"""The device's fused kernels, in CUDA C++, compiled at run time by NVRTC: one ``.cu`` file and one launcher each.

Arrays arrive as CuPy arrays; launchers lay them out contiguously where they are not. float16 and bfloat16 are storage
types: what is added up, exponentiated or compared is so in float32. The few operations without a kernel are the
reference's; bfloat16 arrays are converted to float32 for them, since CuPy's own bfloat16 is incomplete.
"""

from capgpu.kernels import Kernels
from capgpu.kernels.cuda.decode import decode_step, greedy_captions
from capgpu.kernels.cuda.embedding import column_sums, embedding_gradient
from capgpu.kernels.cuda.optimizer import adam_update, gradient_norm, momentum_update
from capgpu.kernels.cuda.product import matmul
from capgpu.kernels.cuda.recurrence import lstm_backward, lstm_forward, rnn_backward, rnn_forward
from capgpu.kernels.cuda.softmax import linear_cross_entropy, softmax_cross_entropy
from capgpu.kernels.cuda.whole import caption_gradients
from capgpu.kernels.half import in_float32
from capgpu.kernels.reference import KERNELS as REFERENCE

__all__ = ["KERNELS"]

KERNELS = Kernels(
    name="cuda",
    pack_captions=REFERENCE.pack_captions,  # on the host: captions are host integers
    matmul=matmul,
    lstm_forward=lstm_forward,
    lstm_backward=lstm_backward,
    rnn_forward=rnn_forward,
    rnn_backward=rnn_backward,
    decode_step=decode_step,
    top_words=in_float32(REFERENCE.top_words),
    softmax_cross_entropy=softmax_cross_entropy,
    linear_cross_entropy=linear_cross_entropy,
    take_rows=REFERENCE.take_rows,
    embedding_gradient=embedding_gradient,
    column_sums=column_sums,
    adam_update=adam_update,
    momentum_update=momentum_update,
    gradient_norm=gradient_norm,
    caption_gradients=caption_gradients,
    greedy_captions=greedy_captions,
)
