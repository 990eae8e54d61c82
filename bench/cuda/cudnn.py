"""Operation counts of PyTorch's training step on a GPU: cuDNN's recurrent layer, eager mode, fused Adam.

Assumptions, which follow from PyTorch's and cuDNN's public texts or fill gaps in them:

- float32 with 512 units takes cuDNN's standard algorithm: PyTorch asks for a persistent one only in float16, or for
  at most 192 (LSTM) or 384 (RNN) units, and never for packed input (aten/src/ATen/native/cudnn/RNN.cpp, get_algo).
  Standard is taken to be: one product of all inputs with Wx; then, for each step, one product with Wh and one
  pointwise kernel. Backward likewise, then one product each for dWx, dWh and dx, and two kernels for the biases.
- ``padded`` computes all T steps of all captions, and selects the hidden states of words before the vocabulary;
  ``packed`` (`pack_padded_sequence`) computes words only, but must pack captions, targets and states first: four
  kernels and two copies that the host waits for; the floors do not include that wait.
- TF32, which PyTorch allows cuDNN by default, is off: the comparison is of float32 with float32.
- Neither looks words up once for several occurrences: the input product has one row a word.
- Eager PyTorch: one kernel for each of: gather, bias in the product's epilogue, log_softmax, nll_loss, a division and
  their gradients; a column sum for each bias; dense embedding gradient as a sort by index (six kernels at these
  sizes, words and their order being read and written about six times).
- Fused Adam: the step counters in one kernel, the update in one for every 320 chunks of 65,536 elements
  (aten/src/ATen/native/cuda/MultiTensorApply.cuh).
"""

from __future__ import annotations

import math

from bench.cuda.parts import FLOAT, Extents, Part, product

__all__ = ["MODES", "step"]

MODES = ("padded", "packed")
_CHUNK, _CHUNKS_A_LAUNCH = 65536, 320
_SORT_PASSES, _SORT_KERNELS = 6, 6


def _pointwise(name: str, count: float, reads: int, writes: int, flops: int, launches: int = 1) -> Part:
    return Part(name, flops * count, FLOAT * count * (reads + writes), launches)


def _layer_forward(e: Extents, rows: int, steps: int) -> list[Part]:
    recurrent = Part(
        "cuDNN: products with Wh",
        2.0 * rows * e.H * e.G,
        FLOAT * (steps * e.H * e.G + rows * (e.H + e.G)),
        steps,
    )
    # read: gates of both products; written: hidden states, cell states and gates; the GRU reads hidden states, too
    unit = (3 * e.G // e.H) + {"lstm": 3, "gru": 2, "rnn": 1}[e.cell]
    gates = Part("cuDNN: cells", 17.0 * rows * e.H, FLOAT * unit * rows * e.H, steps)
    return [product("cuDNN: inputs with Wx", rows, e.W, e.G), recurrent, gates]


def _layer_backward(e: Extents, rows: int, steps: int) -> list[Part]:
    unit = (2 * e.G // e.H) + {"lstm": 5, "gru": 4, "rnn": 3}[e.cell]
    return [
        Part("cuDNN: cells backward", 20.0 * rows * e.H, FLOAT * unit * rows * e.H, steps),
        Part(
            "cuDNN: products with Wh transposed",
            2.0 * rows * e.H * e.G,
            FLOAT * (steps * e.H * e.G + rows * (e.H + e.G)),
            steps,
        ),
        product("cuDNN: gradient of the inputs", rows, e.G, e.W),
        product("cuDNN: gradient of Wx", e.W, rows, e.G),
        product("cuDNN: gradient of Wh", e.H, rows, e.G),
        Part("cuDNN: gradients of the biases", 2.0 * rows * e.G, FLOAT * 2 * (rows * e.G + e.G), 2),
    ]


def step(e: Extents, mode: str) -> list[Part]:
    """Return the parts of one step: loss, gradients, update.

    Parameters
    ----------
    e : Extents
        Extents of the workload.
    mode : {"padded", "packed"}
        Layout of captions of different lengths.
    """
    rows, steps = (e.N * e.T, e.T) if mode == "padded" else (e.M, e.steps)
    packing = 2.0 * e.N * e.T * 2 + 2.0 * e.N * e.H
    selection = (
        [_pointwise("select the words' states", e.M * e.H, 1, 1, 0)]
        if mode == "padded"
        else [Part("pack captions, targets and states", 0.0, FLOAT * packing, 4)]
    )
    selection_backward = (
        [_pointwise("zero the states' gradient, scatter the words'", rows * e.H, 1, 2, 0, 2)]
        if mode == "padded"
        else [Part("states' gradient unpacked", 0.0, FLOAT * 2.0 * e.N * e.H, 2)]
    )
    return [
        product("h0 = features @ W_proj", e.N, e.D, e.H),
        _pointwise("gather word vectors", rows * e.W, 1, 1, 0),
        *_layer_forward(e, rows, steps),
        *selection,
        product("scores = hidden @ W_vocab", e.M, e.H, e.V),
        _pointwise("log_softmax", e.M * e.V, 1, 1, 4),
        Part("nll_loss, division", 2.0 * e.M, FLOAT * 2.0 * e.M, 2),
        Part("nll_loss backward: zeros, then one entry a row", 0.0, FLOAT * 1.0 * e.M * e.V, 3),
        _pointwise("log_softmax backward", e.M * e.V, 2, 1, 3),
        product("gradient of W_vocab", e.H, e.M, e.V),
        product("gradient of hidden", e.M, e.V, e.H),
        Part("gradient of b_vocab", 1.0 * e.M * e.V, FLOAT * 1.0 * (e.M * e.V + e.V)),
        *selection_backward,
        *_layer_backward(e, rows, steps),
        Part(
            "gradient of W_embed",
            1.0 * rows * e.W,
            FLOAT * (rows * e.W + 2.0 * e.V * e.W + 2 * _SORT_PASSES * rows),
            1 + _SORT_KERNELS,
        ),
        product("gradient of W_proj", e.D, e.N, e.H),
        Part("gradient of b_proj", 1.0 * e.N * e.H, FLOAT * 1.0 * (e.N * e.H + e.H)),
        Part(
            "fused Adam",
            12.0 * e.P,
            FLOAT * 7.0 * e.P,
            1 + math.ceil(math.ceil(e.P / _CHUNK) / _CHUNKS_A_LAUNCH),
        ),
    ]
