"""Writing captions with a trained model: greedily, by beam search, or by sampling.

Batched, and backend-free: everything follows the arrays of the model. NULL and START are never written. What is
reported as a word's log-probability is the model's own, whatever rules and temperature the choice was made by: the
sum over a caption is the negative of `CaptioningRNN.nll` of the same caption.
"""

from capgpu.decode.beam import beam_search
from capgpu.decode.decoding import Decoding
from capgpu.decode.rules import Decoded
from capgpu.decode.tracks import greedy, sample

__all__ = ["Decoded", "Decoding", "beam_search", "greedy", "sample"]
