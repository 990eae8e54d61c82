"""Captions from a trained model: greedy decoding, beam search and sampling.

Decoding is batched and runs on any backend: all computations follow the arrays of the model. NULL and START are never
chosen, and UNK only with ``suppress_unk=False``. The reported log-probability of a word is the model's, independent of
masks and temperature: the sum over a caption is the negative of `CaptioningRNN.nll` of the same caption.
"""

from capgpu.decode.beam import beam_search
from capgpu.decode.ensemble import Ensemble
from capgpu.decode.generation_config import GenerationConfig
from capgpu.decode.greedy import greedy
from capgpu.decode.result import DecodeResult, with_attention
from capgpu.decode.sampling import sample
from capgpu.decode.word_model import WordModel

__all__ = [
    "DecodeResult",
    "Ensemble",
    "GenerationConfig",
    "WordModel",
    "beam_search",
    "greedy",
    "sample",
    "with_attention",
]
