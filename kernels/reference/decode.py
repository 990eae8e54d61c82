"""The oracle of one step of decoding."""

from __future__ import annotations

import numpy as np

from capgpu.backend import Array, array_namespace
from capgpu.kernels.cells import RecurrenceForward, cell_of_weights
from capgpu.kernels.contract import Precision
from capgpu.kernels.reference.gru import gru_forward
from capgpu.kernels.reference.lstm import lstm_forward
from capgpu.kernels.reference.precision import product
from capgpu.kernels.reference.rnn import rnn_forward

__all__ = ["decode_step"]

_FORWARD: dict[str, RecurrenceForward] = {"rnn": rnn_forward, "lstm": lstm_forward, "gru": gru_forward}


def decode_step(
    projected: Array,
    rows: Array | None,
    h: Array,
    c: Array | None,
    Wh: Array,
    W_vocab: Array,
    b_vocab: Array,
    parents: Array | None = None,
    *,
    recurrent_bias: Array | None = None,
    precision: Precision = "float32",
) -> tuple[Array, Array, Array | None]:
    """Advance N sequences by one word: cell, then scores over the vocabulary.

    Parameters
    ----------
    projected, rows
        As for the recurrence, one packed row a sequence, with the biases of the input's sums.
    h : array, shape (P, H)
        Hidden states; P = N without `parents`.
    c : array, shape (P, H), or None
        Cell states; None for a cell without.
    Wh : array, shape (H, G)
        Recurrent weights, whose shape tells the cell (`capgpu.kernels.cells.cell_of_weights`).
    W_vocab, b_vocab : array, shape (H, V) and (V,)
        Vocabulary projection.
    parents : array of int, shape (N,), optional
        Row of `h` and `c` that each sequence goes on from, in ``[0, P)``; None: its own. A state that several go on
        from is multiplied by the recurrent weights once in a fused kernel.
    recurrent_bias : array, shape (H,), optional
        Of a GRU: the bias of its candidate's recurrent sum. None for the other cells.
    precision : {"float32", "bf16"}
        How the products read their factors (`capgpu.kernels.contract.Precision`).

    Returns
    -------
    logits : array, shape (N, V)
        Scores of the next word.
    h, c
        The next states, N rows.
    """
    xp = array_namespace(h)
    if parents is not None:
        h, c = xp.take(h, parents, axis=0), None if c is None else xp.take(c, parents, axis=0)
    forward = _FORWARD[cell_of_weights(Wh)]
    bias = None if recurrent_bias is None else xp.concat([xp.zeros_like(Wh[0, :]), recurrent_bias])
    h, c, *_ = forward(projected, rows, h, c, Wh, np.array([h.shape[0]]), bias=bias, precision=precision)
    return product(h, W_vocab, precision) + b_vocab, h, c
