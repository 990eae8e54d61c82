"""The oracle of greedy decoding: `decode_step` and the best word, again and again."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from capgpu.backend import Array, array_namespace
from capgpu.kernels.cells import CELLS, cell_of_weights
from capgpu.kernels.contract import DecodingWeights, Precision, split_biases
from capgpu.kernels.reference.decode import decode_step
from capgpu.kernels.reference.gemm import matmul

__all__ = ["greedy_captions", "greedy_loop"]


def greedy_captions(
    h: Array,
    weights: DecodingWeights,
    max_length: int,
    start: int,
    end: int,
    null: int,
    *,
    precision: Precision = "float32",
) -> Array:
    """Decode the most probable word at each step.

    Parameters
    ----------
    h : array, shape (N, H)
        Initial hidden states.
    weights : DecodingWeights
        In the dtype of `h`.
    max_length : int
        Number of words.
    start : int
        Id of the word that is read first.
    end : int
        Id of the word after which a caption is filled with `null`; -1 for none.
    null : int
        Id to fill with.
    precision : {"float32", "bf16"}
        How the products read their factors (`capgpu.kernels.contract.Precision`).

    Returns
    -------
    array of int32, shape (N, max_length)
        The words; of equal scores the first counts.
    """
    xp = array_namespace(h)
    W_embed, Wx, Wh, b, W_vocab, b_vocab = weights
    multiply = partial(matmul, precision=precision)
    count = h.shape[0]
    c = xp.zeros_like(h) if CELLS[cell_of_weights(Wh)].has_state else None
    b, recurrent_bias = split_biases(b, Wh)
    # projecting the whole vocabulary once pays when more words will be read than it holds
    table = multiply(W_embed, Wx, b) if count * max_length >= W_embed.shape[0] else None

    def read(words: Array) -> Array:
        nonlocal h, c
        projected, rows = table, words
        if table is None:
            projected, rows = multiply(xp.take(W_embed, words, axis=0), Wx, b), None
        logits, h, c = decode_step(
            projected, rows, h, c, Wh, W_vocab, b_vocab, recurrent_bias=recurrent_bias, precision=precision
        )
        return logits

    return greedy_loop(read, h, max_length, start, end, null)


def greedy_loop(read: Callable[[Array], Array], like: Array, max_length: int, start: int, end: int, null: int) -> Array:
    """Decode the most probable word at each step, whatever computes the scores.

    Parameters
    ----------
    read : callable
        Reads one word of each caption, (N,), and returns the scores of the next, (N, V).
    like : array, shape (N, ...)
        An array of the library, on the device.
    max_length, start, end, null : int
        As for `greedy_captions`.

    Returns
    -------
    array of int32, shape (N, max_length)
        As from `greedy_captions`.
    """
    xp, count, device = array_namespace(like), like.shape[0], like.device
    words = xp.full((count,), start, dtype=xp.int32, device=device)
    nulls = xp.full((count,), null, dtype=xp.int32, device=device)
    finished = xp.zeros((count,), dtype=xp.bool, device=device)
    written: list[Array] = []
    for _ in range(max_length):
        words = xp.astype(xp.argmax(read(words), axis=1), xp.int32)
        written.append(xp.where(finished, nulls, words))
        if end >= 0:
            finished = finished | (words == end)
            if bool(xp.all(finished)):
                break
    written.extend([nulls] * (max_length - len(written)))
    return xp.stack(written, axis=1)
