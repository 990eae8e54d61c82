"""A captioner's loss and all its gradients in one compiled call, for batches so small that calls are all the cost.

The passes are those of `capgpu.model`, over the same kernels, each on one thread: packing, projection, embedding,
recurrence, scores, loss, and back, with dropout and smoothed labels where the options ask for them.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels import LossOptions
from capgpu.kernels.cpu import lstm, rnn
from capgpu.kernels.cpu.captions import layout_arrays, pack
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.dropout import (
    NO_DROPOUT,
    drop_rows,
    drop_rows_into,
    key_of,
    rule_for,
    rule_of,
    take_rows_into,
)
from capgpu.kernels.cpu.embedding import _add_rows as add_rows
from capgpu.kernels.cpu.product import BIAS, NOTHING
from capgpu.kernels.cpu.product import _share as product
from capgpu.kernels.cpu.softmax import _rows as softmax_rows
from capgpu.kernels.cpu.units import weights_size
from capgpu.kernels.cpu.workspace import contiguous

__all__ = ["caption_gradients"]

#: Multiply-adds of the widest step times the words, above which threads earn more than calls cost.
SMALL = 4_000_000

_lstm_forward, _lstm_backward = lstm._forward, lstm._backward
_rnn_forward, _rnn_backward = rnn._forward, rnn._backward


@compiled(fastmath=frozenset({"reassoc"}), allocates=False)
def _finite(array: Any) -> bool:
    # 0 * x is 0 for every finite x and NaN for all others
    total = array.dtype.type(0)
    for row in array:
        for j in range(row.size):
            total += row[j] * array.dtype.type(0)
    return bool(total == 0)


@compiled()
def _gather(table: Any, rows: Any, rule: Any) -> Any:
    out = np.empty((rows.size, table.shape[1]), table.dtype)
    take_rows_into(0, 1, table, rows, rule, out)
    return out


@compiled(allocates=False)
def _column_sums(rows: Any, out: Any) -> None:
    for j in range(out.size):
        out[j] = 0
    for m in range(rows.shape[0]):
        row = rows[m]
        for j in range(row.size):
            out[j] += row[j]


@compiled()
def _multiply(A: Any, a_transposed: bool, B: Any, b_transposed: bool, bias: Any, start: int, out: Any) -> None:
    if out.size:
        product(0, 1, False, A, a_transposed, B, b_transposed, bias, start, out)


@compiled()
def _times(A: Any, a_transposed: bool, B: Any, b_transposed: bool, bias: Any, start: int) -> Any:
    m = A.shape[1] if a_transposed else A.shape[0]
    n = B.shape[0] if b_transposed else B.shape[1]
    out = np.empty((m, n), A.dtype)
    _multiply(A, a_transposed, B, b_transposed, bias, start, out)
    return out


@compiled()
def _previous(hidden: Any, h0: Any, batch_sizes: Any) -> Any:
    out = np.empty_like(hidden)
    start = before = 0
    for step in range(batch_sizes.size):
        for rank in range(batch_sizes[step]):
            source = h0[rank] if step == 0 else hidden[before + rank]
            target = out[start + rank]
            for j in range(target.size):
                target[j] = source[j]
        before = start
        start += batch_sizes[step]
    return out


@compiled()
def _whole(
    features: Any,
    captions: Any,
    null: int,
    feature_rule: Any,
    output_rule: Any,
    output_key: Any,
    smoothing: float,
    gradients: Any,
    W_embed: Any,
    W_proj: Any,
    b_proj: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    W_vocab: Any,
    b_vocab: Any,
) -> tuple[bool, float]:
    """Fill in the gradients, in the order of the parameters; return whether the batch was sound, and the loss.

    The gradients are arrays of the caller, for the reason given in `capgpu.kernels.cpu.captions`.
    """
    dW_embed, dW_proj, db_proj, dWx, dWh, db, dW_vocab, db_vocab = gradients
    arrays = layout_arrays(captions.shape[0], captions.shape[1], W_embed.shape[0])
    valid, steps, distinct, n_rows = pack(captions, null, W_embed.shape[0], arrays)
    order, batch_sizes, words = arrays[0], arrays[1][:steps], arrays[2][:distinct]
    word_of_row, targets = arrays[3][:n_rows], arrays[4][:n_rows]
    sound = valid and targets.size > 0 and _finite(features)
    if not sound:
        batch_sizes, words, word_of_row = batch_sizes[:0], words[:0], word_of_row[:0]
        targets = targets[:0]
    alive = batch_sizes[0] if batch_sizes.size else 0
    size = Wh.shape[0]
    is_lstm = Wh.shape[1] == 4 * size

    taken = _gather(features, order[:alive], feature_rule)
    h0 = _times(taken, False, W_proj, False, b_proj, BIAS)
    embedded = _gather(W_embed, words, NO_DROPOUT)
    projected = _times(embedded, False, Wx, False, b, BIAS)
    rows = targets.size
    hidden = np.empty((rows, size), Wh.dtype)
    width = size if is_lstm else 0
    cell, gates = np.empty((rows, width), Wh.dtype), np.empty((rows, 4 * width), Wh.dtype)
    c0 = np.zeros((alive, width), Wh.dtype)
    weights = np.empty(weights_size(size, size, Wh.shape[1] // size, Wh.itemsize), Wh.dtype)
    no_slot: Any = np.int64(0)  # a single task does not touch it
    if is_lstm:
        _lstm_forward(0, 1, no_slot, projected, word_of_row, h0, c0, Wh, weights, batch_sizes, hidden, cell, gates)
    else:
        _rnn_forward(0, 1, no_slot, projected, word_of_row, h0, Wh, weights, batch_sizes, hidden)

    scored = hidden
    output_rule = rule_for(output_rule, output_key, hidden.size)
    if output_rule[3] > 0:
        scored = np.empty_like(hidden)
        drop_rows_into(0, 1, hidden, 0, output_rule, scored)
    scores = _times(scored, False, W_vocab, False, b_vocab, BIAS)
    losses = np.empty(rows)
    scale = 1.0 / features.shape[0]
    softmax_rows(0, 1, scores, targets, scale, smoothing, losses)
    dhidden = _times(scores, False, W_vocab, True, b, NOTHING)
    if output_rule[3] > 0:
        drop_rows(0, 1, dhidden, 0, output_rule)
    _multiply(scored, True, scores, False, b, NOTHING, dW_vocab)
    _column_sums(scores, db_vocab)

    dh0 = np.empty((alive, size), Wh.dtype)
    dprojected = np.empty((rows, Wh.shape[1]), Wh.dtype)
    if is_lstm:
        dc0 = np.empty((alive, size), Wh.dtype)
        _lstm_backward(
            0, 1, no_slot, dhidden, dhidden, False, gates, cell, c0, Wh, weights, batch_sizes, dprojected, dh0, dc0
        )
    else:
        _rnn_backward(0, 1, no_slot, dhidden, hidden, Wh, weights, batch_sizes, dprojected, dh0)
    _multiply(_previous(hidden, h0, batch_sizes), True, dprojected, False, b, NOTHING, dWh)
    dtable = np.empty((words.size, Wh.shape[1]), Wh.dtype)
    add_rows(0, 1, dprojected, word_of_row, dtable)
    dembedded = _times(dtable, False, Wx, True, b, NOTHING)
    add_rows(0, 1, dembedded, words, dW_embed)
    _multiply(taken, True, dh0, False, b, NOTHING, dW_proj)
    _column_sums(dh0, db_proj)
    _multiply(embedded, True, dtable, False, b, NOTHING, dWx)
    _column_sums(dtable, db)
    return sound, losses.sum() * scale


def caption_gradients(
    features: Any, captions: Any, null: int, params: dict[str, Any], options: LossOptions
) -> tuple[Any, Any] | None:
    """Compute a small batch's loss and gradients; see `capgpu.kernels.reference.whole.caption_gradients`."""
    Wh, W_vocab = params["Wh"], params["W_vocab"]
    work = captions.size * Wh.shape[0] * (Wh.shape[1] + W_vocab.shape[1])
    if work > SMALL or features.shape[1] * Wh.shape[0] * features.shape[0] > SMALL:
        return None
    arrays = [contiguous(array) for array in params.values()]
    ids = contiguous(captions, dtype=np.int64)
    gradients = tuple(np.empty_like(array) for array in arrays)
    rules = rule_of(options.feature_dropout, features.size), rule_of(options.output_dropout, 0)
    key, smoothing = key_of(options.output_dropout), float(options.smoothing)
    sound, loss = _whole(contiguous(features), ids, null, *rules, key, smoothing, gradients, *arrays)
    if not sound:
        return None
    grads = dict(zip(params, gradients, strict=True))
    if options.tied:
        grads["W_embed"] += grads.pop("W_vocab").T
    return Wh.dtype.type(loss), grads
