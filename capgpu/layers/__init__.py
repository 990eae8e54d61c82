"""The functional layers of a recurrent captioner, each a forward and a hand-written backward pass.

Names, argument orders and results are those of the cs231n exercises. The layers follow the library of the
arrays they are handed. A ``cache`` is opaque: hand it to the backward pass of the same layer. Inputs and
caches are never modified, and the floating dtype that comes in goes out.
"""

from capgpu.layers.affine import (
    affine_backward,
    affine_forward,
    temporal_affine_backward,
    temporal_affine_forward,
)
from capgpu.layers.attention import (
    attention_backward,
    attention_forward,
    attention_step_backward,
    attention_step_forward,
    dot_product_attention,
    dot_product_attention_backward,
)
from capgpu.layers.embedding import word_embedding_backward, word_embedding_forward
from capgpu.layers.gru import gru_backward, gru_forward, gru_step_backward, gru_step_forward
from capgpu.layers.lstm import lstm_backward, lstm_forward, lstm_step_backward, lstm_step_forward
from capgpu.layers.rnn import rnn_backward, rnn_forward, rnn_step_backward, rnn_step_forward
from capgpu.layers.softmax import temporal_softmax_loss

__all__ = [
    "affine_backward",
    "affine_forward",
    "attention_backward",
    "attention_forward",
    "attention_step_backward",
    "attention_step_forward",
    "dot_product_attention",
    "dot_product_attention_backward",
    "gru_backward",
    "gru_forward",
    "gru_step_backward",
    "gru_step_forward",
    "lstm_backward",
    "lstm_forward",
    "lstm_step_backward",
    "lstm_step_forward",
    "rnn_backward",
    "rnn_forward",
    "rnn_step_backward",
    "rnn_step_forward",
    "temporal_affine_backward",
    "temporal_affine_forward",
    "temporal_softmax_loss",
    "word_embedding_backward",
    "word_embedding_forward",
]
