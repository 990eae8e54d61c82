"""The oracle: every operation of the contract in plain array-namespace code.

Runs on NumPy, CuPy and any library of the array API standard. Fused kernels are checked against it, it documents
what they must do, and it serves every dtype and shape that they do not.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from capgpu.kernels.reference.attention import (
    attention_decode_step,
    attention_lstm_backward,
    attention_lstm_forward,
)
from capgpu.kernels.reference.decode import decode_step
from capgpu.kernels.reference.embedding import add_rows, column_sums, embedding_gradient, scatter_rows, take_rows
from capgpu.kernels.reference.gemm import matmul
from capgpu.kernels.reference.greedy import greedy_captions
from capgpu.kernels.reference.gru import gru_backward, gru_forward
from capgpu.kernels.reference.lstm import lstm_backward, lstm_forward
from capgpu.kernels.reference.optimizer import adam_update, gradient_norm, momentum_update
from capgpu.kernels.reference.pack_captions import caption_batch, pack_captions
from capgpu.kernels.reference.rnn import rnn_backward, rnn_forward
from capgpu.kernels.reference.softmax import apply_dropout, linear_cross_entropy, softmax_cross_entropy
from capgpu.kernels.reference.top_k import draw_words, top_words

__all__ = ["KERNELS", "OPERATIONS", "Kernels"]


class Kernels:
    """The contract: every operation, with its one plain implementation.

    A target is a subclass that replaces operations by fused ones of the same types. What it does not replace is served
    by the implementations here.

    Attributes
    ----------
    name : str
        ``"reference"``, or the target whose fused kernels are in.
    """

    name = "reference"
    # the layout of a minibatch of captions
    pack_captions = staticmethod(pack_captions)
    caption_batch = staticmethod(caption_batch)
    # products, rows of tables, dropout
    matmul = staticmethod(matmul)
    apply_dropout = staticmethod(apply_dropout)
    take_rows = staticmethod(take_rows)
    scatter_rows = staticmethod(scatter_rows)
    add_rows = staticmethod(add_rows)
    embedding_gradient = staticmethod(embedding_gradient)
    column_sums = staticmethod(column_sums)
    # whole recurrences over packed sequences
    lstm_forward = staticmethod(lstm_forward)
    lstm_backward = staticmethod(lstm_backward)
    rnn_forward = staticmethod(rnn_forward)
    rnn_backward = staticmethod(rnn_backward)
    gru_forward = staticmethod(gru_forward)
    gru_backward = staticmethod(gru_backward)
    attention_lstm_forward = staticmethod(attention_lstm_forward)
    attention_lstm_backward = staticmethod(attention_lstm_backward)
    # losses
    softmax_cross_entropy = staticmethod(softmax_cross_entropy)
    linear_cross_entropy = staticmethod(linear_cross_entropy)
    # decoding
    decode_step = staticmethod(decode_step)
    attention_decode_step = staticmethod(attention_decode_step)
    top_words = staticmethod(top_words)
    draw_words = staticmethod(draw_words)
    greedy_captions = staticmethod(greedy_captions)
    # update rules over all parameters at once
    adam_update = staticmethod(adam_update)
    momentum_update = staticmethod(momentum_update)
    gradient_norm = staticmethod(gradient_norm)

    def joint_column_sums(self) -> AbstractContextManager[None]:
        """Return a context in which sums of columns, the gradients of biases, may be put off until its end.

        Until then nothing may read what `column_sums` and the last result of `linear_cross_entropy` return, nor write
        into what is summed.
        """
        return nullcontext()

    def announce(self, operations: tuple[str, ...], dtype: Any, *, parameters: int = 0, later: bool = False) -> None:
        """Announce operations that will be called: a target may prepare for them, and does nothing here.

        Parameters
        ----------
        operations : tuple of str
            Their names, in the order in which they are needed.
        dtype : dtype
            Dtype of their arrays.
        parameters : int
            Number of parameters of an update.
        later : bool
            Whether everything else that is announced is needed before.
        """


KERNELS = Kernels()

#: Names of the operations.
OPERATIONS = tuple(name for name, value in vars(Kernels).items() if isinstance(value, staticmethod))
