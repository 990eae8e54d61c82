"""The oracle of greedy decoding: `decode_step` and the best word, again and again."""

from __future__ import annotations

from capgpu.backend import Array, array_namespace
from capgpu.kernels.reference.decode import decode_step
from capgpu.kernels.reference.gemm import matmul

__all__ = ["greedy_captions"]


def greedy_captions(
    features: Array, max_length: int, start: int, end: int, null: int, params: dict[str, Array]
) -> Array:
    """Write captions greedily: the most probable word at each step.

    Parameters
    ----------
    features : array, shape (N, D)
        Image features, in the dtype of the parameters.
    max_length : int
        Words to write.
    start : int
        Id of the word to begin from.
    end : int
        Id of the word after which a caption is filled with `null`; -1 to write on.
    null : int
        Id to fill with.
    params : dict of str to array
        W_embed, W_proj, b_proj, Wx, Wh, b, W_vocab, b_vocab of `capgpu.model.CaptioningRNN`. With tied weights, W_vocab
        is a transposed view of W_embed.

    Returns
    -------
    array of int32, shape (N, max_length)
        The words; of equal scores the first counts.
    """
    xp = array_namespace(features)
    W_embed, Wh = params["W_embed"], params["Wh"]
    count = features.shape[0]
    h = matmul(features, params["W_proj"], params["b_proj"])
    c = xp.zeros_like(h) if Wh.shape[1] == 4 * Wh.shape[0] else None
    # projecting the whole vocabulary once pays when more words will be read than it holds
    table = matmul(W_embed, params["Wx"], params["b"]) if count * max_length >= W_embed.shape[0] else None
    words = xp.full((count,), start, dtype=xp.int32, device=features.device)
    nulls = xp.full((count,), null, dtype=xp.int32, device=features.device)
    ended = xp.zeros((count,), dtype=xp.bool, device=features.device)
    written: list[Array] = []
    for _ in range(max_length):
        projected, rows = table, words
        if table is None:
            projected, rows = matmul(xp.take(W_embed, words, axis=0), params["Wx"], params["b"]), None
        logits, h, c = decode_step(projected, rows, h, c, Wh, params["W_vocab"], params["b_vocab"])
        words = xp.astype(xp.argmax(logits, axis=1), xp.int32)
        written.append(xp.where(ended, nulls, words))
        if end >= 0:
            ended = ended | (words == end)
            if bool(xp.all(ended)):
                break
    written.extend([nulls] * (max_length - len(written)))
    return xp.stack(written, axis=1)
