"""Decoding on the device: one step, and whole captions without synchronization; the kernels are in decode.cu."""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cells import CELLS, cell_of_weights
from capgpu.kernels.contract import DecodingWeights, Precision, check_precision, split_biases
from capgpu.kernels.cuda.array_checks import check_device, contiguous, empty, operand, pointers
from capgpu.kernels.cuda.compile import kernel
from capgpu.kernels.cuda.constants import THREADS
from capgpu.kernels.cuda.device_calls import add_into, fill, take_rows
from capgpu.kernels.cuda.embedding import gather_rows
from capgpu.kernels.cuda.gemm import product
from capgpu.kernels.cuda.workspace import workspace

__all__ = ["advance_cell", "decode_step", "greedy_captions"]


def advance_cell(
    projected: Any, rows: Any, sums: Any, bias: Any, recurrent_bias: Any, before: tuple[Any, Any], h: Any, c: Any
) -> None:
    """Advance a cell from the product ``h Wh``; one launch.

    Parameters
    ----------
    projected, rows
        As for `capgpu.kernels.reference.decode_step`.
    sums : array, shape (N, G)
        The product.
    bias : array, shape (G,), or None
        Biases that `projected` lacks.
    recurrent_bias : array, shape (H,), or None
        Of a GRU.
    before : tuple of (array, array), shape (N, H)
        States h and c; c is None for zeros, and for a cell without.
    h, c : array, shape (N, H)
        Written; c is None for a cell without.
    """
    count, size = h.shape
    gates, (h_before, c_before) = sums.shape[1] // size, before
    kernel("decode_cell", h.dtype, GATES=gates)(
        -(-count * size // THREADS),
        THREADS,
        (
            *pointers(projected, rows, sums, bias, recurrent_bias, h_before if c is None else c_before, h, c),
            np.int32(count),
            np.int32(size),
        ),
    )


def decode_step(
    projected: Any,
    rows: Any,
    h: Any,
    c: Any,
    Wh: Any,
    W_vocab: Any,
    b_vocab: Any,
    parents: Any = None,
    *,
    recurrent_bias: Any = None,
    precision: Precision = "float32",
) -> tuple[Any, Any, Any]:
    """Advance N sequences by one word; see `capgpu.kernels.reference.decode_step`."""
    check_precision(precision, h.dtype)
    check_device(projected=projected, rows=rows, h=h, c=c, Wh=Wh, W_vocab=W_vocab, b_vocab=b_vocab, parents=parents)
    check_device(recurrent_bias=recurrent_bias)
    dtype = h.dtype
    if parents is not None:
        h, c = (None if states is None else take_rows(states, parents) for states in (h, c))
    count = h.shape[0]
    h_next = empty(h.shape, dtype, "the hidden state")
    c_next = None if c is None else empty(h.shape, dtype, "the cell state")
    logits = empty((count, W_vocab.shape[1]), dtype, "the scores of the next word")
    sums = workspace().take("decoding: sums", (count, Wh.shape[1]), dtype)
    product(h, Wh, sums, precision)
    projected, rows, recurrent_bias, h, c = map(operand, (projected, rows, recurrent_bias, h, c))
    advance_cell(projected, rows, sums, None, recurrent_bias, (h, c), h_next, c_next)
    product(h_next, W_vocab, logits, precision)
    add_into(logits, b_vocab)
    return logits, h_next, c_next


def greedy_captions(
    h: Any,
    weights: DecodingWeights,
    max_length: int,
    start: int,
    end: int,
    null: int,
    *,
    precision: Precision = "float32",
) -> Any:
    """Decode the most probable word at each step; see `capgpu.kernels.reference.greedy_captions`.

    Four launches per word, or six if the vocabulary is not projected beforehand. The host does not wait for results, so
    all `max_length` steps are computed even if every caption has ended.
    """
    check_precision(precision, h.dtype)
    check_device(h=h, **weights._asdict())
    W_embed, Wx, Wh, b, W_vocab, b_vocab = (contiguous(array) for array in weights)
    dtype, count, size = Wh.dtype, h.shape[0], Wh.shape[0]
    b, recurrent_bias = split_biases(b, Wh)
    vocabulary, gates = W_embed.shape[0], Wh.shape[1]
    space = workspace()
    words = empty((count, max_length), np.int32, "the words")
    hidden = [contiguous(h), *(space.take(f"decoding: h {k}", (count, size), dtype) for k in range(2))]
    c: list[Any] = [None, None]
    if CELLS[cell_of_weights(Wh)].has_state:
        c = [space.take(f"decoding: c {k}", (count, size), dtype) for k in range(2)]
    sums = space.take("decoding: sums", (count, gates), dtype)
    scores = space.take("decoding: scores", (count, vocabulary), dtype)
    state = space.take("decoding: next words, ended", (2, count), np.int32)
    word, ended = state[0], state[1]
    fill(word, start)
    fill(ended, 0)
    # projecting the whole vocabulary once is cheaper if more words will be read than it has
    vocabulary_is_projected = count * max_length >= vocabulary
    if vocabulary_is_projected:
        projected = space.take("decoding: projected vocabulary", (vocabulary, gates), dtype)
        product(W_embed, Wx, projected, precision)
    else:
        embedded = space.take("decoding: embedded", (count, Wx.shape[0]), dtype)
        projected = space.take("decoding: projected words", (count, gates), dtype)
    choose_words = kernel("choose_words", dtype, GATES=gates // size)
    for step in range(max_length):
        h_before, h_after = hidden[1 + step % 2 if step else 0], hidden[1 + (step + 1) % 2]
        if not vocabulary_is_projected:
            gather_rows(W_embed, word, embedded)
            product(embedded, Wx, projected, precision)
        product(h_before, Wh, sums, precision)
        advance_cell(
            projected,
            word if vocabulary_is_projected else None,
            sums,
            b,
            recurrent_bias,
            (h_before, c[step % 2] if step else None),
            h_after,
            c[(step + 1) % 2],
        )
        product(h_after, W_vocab, scores, precision)
        numbers = (np.int32(value) for value in (vocabulary, max_length, step, end, null))
        choose_words(count, THREADS, (scores, b_vocab, words, word, ended, *numbers))
    return words
