"""Greedy decoding in one compiled call: all words of all captions.

Each thread owns a run of hidden units and a run of the vocabulary, packs its columns of the weights once (for a single
caption, not those of a large vocabulary), and keeps them near for all words. Threads wait at two barriers a word: when
the states are there, and when each has found the best of its own words. Of a small model, threads share the captions
instead, and never wait. A word's input product is made once, the first time that any caption reads it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.contract import DecodingWeights, Precision, check_precision
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.gemm import aligned
from capgpu.kernels.cpu.job_slot import barrier, run_job
from capgpu.kernels.cpu.lstm import activate_lstm
from capgpu.kernels.cpu.recurrent_gemm import (
    Products,
    pack_gates,
    packed_size,
    product_of_gates,
    products,
    scratch_size,
    unit_range,
    weights_size,
)
from capgpu.kernels.cpu.rnn import activate_rnn
from capgpu.kernels.cpu.softmax import greatest
from capgpu.kernels.cpu.task_code import describe_job
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous, scratch

__all__ = ["greedy_captions"]

#: Scores that are looked through at once.
RUN = 512
#: Weights up to this size stay near every thread: captions are shared then, not columns, and nobody meets.
FEW_BYTES = 512 << 10
#: Vocabulary weights beyond this size come from far memory at every word of a single caption, packed or not.
NEAR_BYTES = 8 << 20
#: Below this many multiply-adds a word one thread is faster than two that meet.
WORTH_MEETING = 100_000


@compiled(allocates=False)
def _best(scores: Any, bias: Any) -> int:
    """Return the first index of the greatest score; NaN counts as the greatest, as in `numpy.argmax`."""
    for j in range(scores.size):
        scores[j] += bias[j]
    # the run that holds it is found by vectors, its place in the run one by one
    run, top = 0, greatest(scores[:RUN])
    for start in range(RUN, scores.size, RUN):
        score = greatest(scores[start : start + RUN])
        if score > top or (np.isnan(score) and not np.isnan(top)):
            run, top = start, score
    for j in range(run, min(run + RUN, scores.size)):
        if scores[j] == top or np.isnan(scores[j]):
            return j
    return 0


@compiled()
def _project_new_words(words: Any, slots: Any, used: int, W_embed: Any, x: Any) -> int:
    """Give each word that has none a slot, and gather their vectors; return how many there were."""
    fresh = 0
    for n in range(words.size):
        if slots[words[n]] < 0:
            slots[words[n]] = used + fresh
            source, target = W_embed[words[n]], x[fresh]
            for j in range(target.size):
                target[j] = source[j]
            fresh += 1
    return fresh


@compiled(allocates=False)
def _stream(a: Any, weights: Any, left: int, right: int, out: Any) -> None:
    """Multiply one row by columns left..right-1 of weights as they lie, each element one chain in rising k.

    For a single caption every weight is used once a word: to pack many would cost more than it saves.
    """
    target = out[left:right]
    for j in range(target.size):
        target[j] = 0
    depth = weights.shape[0]
    # four rows at once: of more, the compiler gives up proving that none overlaps the result
    for k in range(0, depth - 3, 4):
        a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
        w0, w1 = weights[k, left:right], weights[k + 1, left:right]
        w2, w3 = weights[k + 2, left:right], weights[k + 3, left:right]
        for j in range(target.size):
            total = target[j] + a0 * w0[j]
            total = total + a1 * w1[j]
            total = total + a2 * w2[j]
            target[j] = total + a3 * w3[j]
    for k in range(depth // 4 * 4, depth):
        row = weights[k, left:right]
        for j in range(target.size):
            target[j] += a[k] * row[j]


@compiled()
def _decode(
    index: int,
    count: int,
    slot: int,
    multiply: Products,
    h: Any,
    c: Any,
    sums: Any,
    scores: Any,
    projections: Any,
    tops: Any,
    words_of: Any,
    W_embed: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    W_vocab: Any,
    b_vocab: Any,
    packed_x: Any,
    packed_h: Any,
    packed_vocab: Any,
    start: int,
    end: int,
    null: int,
    out: Any,
) -> None:
    """Compute some columns of every word; `h` and `c` hold two states, taken in turn."""
    captions, size, words_in_all = h.shape[1], h.shape[2], b_vocab.size
    n_gates = b.size // size
    left, right = unit_range(index, count, size, h.itemsize)
    v_left, v_right = unit_range(index, count, words_in_all, h.itemsize)
    edge = aligned(scratch_size(multiply, h.itemsize), h)
    own_x = pack_gates(multiply, Wx, False, n_gates, left, right, index, packed_x, edge)
    own_h = pack_gates(multiply, Wh, False, n_gates, left, right, index, packed_h, edge)
    own_vocab = 0
    streamed = packed_vocab.size == 0
    if not streamed:
        own_vocab = pack_gates(multiply, W_vocab, False, 1, v_left, v_right, index, packed_vocab, edge)

    slots, used = np.full(words_in_all, -1), 0
    x = np.empty((captions, W_embed.shape[1]), h.dtype)
    words, ended = np.full(captions, start), np.zeros(captions, np.bool_)
    for step in range(out.shape[1]):
        fresh = _project_new_words(words, slots, used, W_embed, x)
        product_of_gates(multiply, x, 0, fresh, packed_x, own_x, n_gates, left, right, projections, used, edge)
        used += fresh
        before, after = h[step % 2], h[(step + 1) % 2]
        target = after if n_gates == 1 else sums
        product_of_gates(multiply, before, 0, captions, packed_h, own_h, n_gates, left, right, target, 0, edge)
        for n in range(captions):
            inputs = projections[slots[words[n]]]
            if n_gates == 1:
                activate_rnn(after[n, left:right], inputs[left:right], b[left:right])
            else:
                activate_lstm(sums[n], inputs, b, c[step % 2, n], c[(step + 1) % 2, n], after[n], left, right)
        if not barrier(slot, index, count, 2 * step + 1):
            return
        if streamed:
            _stream(after[0], W_vocab, v_left, v_right, scores[0])
        else:
            product_of_gates(multiply, after, 0, captions, packed_vocab, own_vocab, 1, v_left, v_right, scores, 0, edge)
        for n in range(captions):
            if v_left < v_right:
                own = scores[n, v_left:v_right]
                best = _best(own, b_vocab[v_left:v_right])
                tops[step % 2, index, n], words_of[step % 2, index, n] = own[best], v_left + best
        if not barrier(slot, index, count, 2 * step + 2):
            return
        for n in range(captions):
            words[n] = _chosen(tops[step % 2, :count, n], words_of[step % 2, :count, n], words_in_all, h.itemsize)
            if index == 0:
                out[n, step] = null if ended[n] else words[n]
            ended[n] |= words[n] == end
        if ended.all():
            if index == 0:
                out[:, step + 1 :] = null
            break


@compiled()
def _chosen(tops: Any, words: Any, words_in_all: int, itemsize: int) -> int:
    """Return the best of the shares' best words; of equal scores the first counts, as in `_best`."""
    chosen = -1
    for share in range(tops.size):
        left, right = unit_range(share, tops.size, words_in_all, itemsize)
        if left < right and (
            chosen < 0 or tops[share] > tops[chosen] or (np.isnan(tops[share]) and not np.isnan(tops[chosen]))
        ):
            chosen = share
    return int(words[chosen])


_describe_decode = describe_job(_decode, barriers=True)


@compiled()
def _launch_decode(slot: int, n_tasks: int, arguments: Any) -> bool:
    return run_job(slot, n_tasks, _describe_decode(arguments))


@compiled()
def _apart(
    index: int,
    count: int,
    multiply: Products,
    h0: Any,
    W_embed: Any,
    Wx: Any,
    Wh: Any,
    b: Any,
    W_vocab: Any,
    b_vocab: Any,
    start: int,
    end: int,
    null: int,
    out: Any,
) -> None:
    """Write a share of the captions from first word to last: for weights so few that each thread may have all."""
    first, last = h0.shape[0] * index // count, h0.shape[0] * (index + 1) // count
    if first == last:
        return
    captions, size, n_gates = last - first, h0.shape[1], b.size // h0.shape[1]
    h = np.empty((2, captions, size), h0.dtype)
    h[0] = h0[first:last]
    own, rounded = np.empty((captions, out.shape[1]), out.dtype), multiply[0] != 0
    no_slot: Any = np.int64(0)  # a single task does not touch it
    _decode(
        0,
        1,
        no_slot,
        multiply,
        h,
        np.zeros((2, captions, size if n_gates > 1 else 0), h0.dtype),
        np.empty((captions, b.size if n_gates > 1 else 0), h0.dtype),
        np.empty((captions, b_vocab.size), h0.dtype),
        np.empty((min(captions * out.shape[1], W_embed.shape[0]), b.size), h0.dtype),
        np.empty((2, 1, captions), h0.dtype),
        np.empty((2, 1, captions), np.int64),
        W_embed,
        Wx,
        Wh,
        b,
        W_vocab,
        b_vocab,
        np.empty(weights_size(Wx.shape[0], size, n_gates, h0.itemsize, rounded, 1), h0.dtype),
        np.empty(weights_size(size, size, n_gates, h0.itemsize, rounded, 1), h0.dtype),
        np.empty(weights_size(size, b_vocab.size, 1, h0.itemsize, rounded, 1), h0.dtype),
        start,
        end,
        null,
        own,
    )
    out[first:last] = own


_describe_apart = describe_job(_apart)


@compiled()
def _launch_apart(slot: int, n_tasks: int, arguments: Any) -> bool:
    return run_job(slot, n_tasks, _describe_apart(arguments))


def _room(weights: Any, n_gates: int, precision: Precision, n_tasks: int) -> int:
    depth, columns = weights.shape
    return packed_size(depth, columns // n_gates, n_gates, weights.itemsize, precision == "bf16", n_tasks)


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
    """Write captions greedily; see `capgpu.kernels.reference.greedy_captions`."""
    check_precision(precision, h.dtype)
    W_embed, Wx, Wh, b, W_vocab, b_vocab = (contiguous(array) for array in weights)
    h0 = contiguous(h)
    (captions, size), dtype = h0.shape, h0.dtype
    n_gates = b.size // size
    n_tasks = POOL.n_threads if captions * size * (b.size + b_vocab.size) >= WORTH_MEETING else 1
    out = np.empty((captions, max_length), dtype=np.int32)
    multiply = products(precision, captions, max(size, Wx.shape[0]))
    if captions >= n_tasks and Wx.nbytes + Wh.nbytes + W_vocab.nbytes <= FEW_BYTES:
        POOL.run(n_tasks, _launch_apart, multiply, h0, W_embed, Wx, Wh, b, W_vocab, b_vocab, start, end, null, out)
        return out
    states = np.empty((2, captions, size), dtype)
    states[0] = h0
    cells = size if n_gates > 1 else 0
    streamed = captions == 1 and W_vocab.nbytes > NEAR_BYTES and precision == "float32"
    packed = [
        scratch(f"packed {name}", (room,), dtype)
        for name, room in (
            ("Wx", _room(Wx, n_gates, precision, n_tasks)),
            ("Wh", _room(Wh, n_gates, precision, n_tasks)),
            ("W_vocab", 0 if streamed else _room(W_vocab, 1, precision, n_tasks)),
        )
    ]
    POOL.run(
        n_tasks,
        _launch_decode,
        multiply,
        states,
        np.zeros((2, captions, cells), dtype),
        np.empty((captions, b.size if n_gates > 1 else 0), dtype),
        scratch("scores", (captions, b_vocab.size), dtype),
        np.empty((min(captions * max_length, W_embed.shape[0]), b.size), dtype),
        np.empty((2, n_tasks, captions), dtype),
        np.empty((2, n_tasks, captions), np.int64),
        W_embed,
        Wx,
        Wh,
        b,
        W_vocab,
        b_vocab,
        *packed,
        start,
        end,
        null,
        out,
    )
    return out
