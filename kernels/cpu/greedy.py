"""Greedy decoding in one compiled call: all words of all captions.

Each thread owns a range of hidden units and a range of the vocabulary, packs its columns of the weights once (for a
single caption, not those of a large vocabulary), and keeps them in its cache for all words. Threads wait at two
barriers a word: after the states, and after each has found the best of its own words. Of a small model, threads share
the captions instead, and never wait. A word's input product is computed once, the first time that any caption reads it.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from capgpu.kernels.contract import DecodingWeights, Precision, check_precision
from capgpu.kernels.cpu.cells import GATES_WITH_STATE, activate_cell
from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.job_slot import barrier
from capgpu.kernels.cpu.parallel_job import parallel_job
from capgpu.kernels.cpu.recurrence import ForwardRow
from capgpu.kernels.cpu.recurrent_gemm import (
    Products,
    pack_columns,
    packed_size,
    product_with_columns,
    products,
    scratch_size,
    unit_range,
    weights_size,
)
from capgpu.kernels.cpu.softmax import greatest
from capgpu.kernels.cpu.thread_pool import POOL
from capgpu.kernels.cpu.workspace import contiguous, scratch

__all__ = ["greedy_captions"]

#: Scores that are searched at once.
RUN = 512
#: Weights up to this size stay in every thread's cache: captions are shared then, not columns, without barriers.
FEW_BYTES = 512 << 10
#: Vocabulary weights beyond this size come from memory at every word of a single caption, packed or not.
NEAR_BYTES = 8 << 20
#: Below this many multiply-adds a word one thread is faster than two that wait for each other.
WORTH_BARRIERS = 100_000


@compiled()
def _best(scores: Any, bias: Any) -> int:
    """Return the first index of the greatest score; NaN counts as the greatest, as in `numpy.argmax`."""
    for j in range(scores.size):
        scores[j] += bias[j]
    # the run that holds it is found by vectors, its position in the run one by one
    best_run, best_score = 0, greatest(scores[:RUN])
    for run in range(RUN, scores.size, RUN):
        score = greatest(scores[run : run + RUN])
        if score > best_score or (np.isnan(score) and not np.isnan(best_score)):
            best_run, best_score = run, score
    for j in range(best_run, min(best_run + RUN, scores.size)):
        if scores[j] == best_score or np.isnan(scores[j]):
            return j
    return 0


class _Decoding(NamedTuple):
    """Operands of greedy decoding, all arrays contiguous: N captions, G gates, B biases, vocabulary V."""

    multiply: Products
    W_embed: Any  # (V, W)
    Wx: Any  # (W, G H)
    Wh: Any  # (H, G H)
    b: Any  # (B H,)
    W_vocab: Any  # (H, V)
    b_vocab: Any  # (V,)
    start: int  # ids of special words
    end: int
    null: int
    h: Any  # (2, N, H): the states before and after a word, which swap places at each word
    c: Any  # the same of c; `h` for a cell without one
    sums: Any  # (N, B H): recurrent sums, then gates; (N, 0) for an RNN
    scores: Any  # (N, V)
    projections: Any  # input products of the words that have been read, a row (G H) each
    best_scores: Any  # (2, tasks, N): of each task's own words, at words of even and of odd number
    best_words: Any  # (2, tasks, N)
    packed_x: Any  # memory of the packed weights; the last one is empty where they are read as they lie
    packed_h: Any
    packed_vocab: Any
    out: Any  # (N, max_length)


@compiled()
def _gather_new_words(words: Any, slots: Any, n_slots: int, W_embed: Any, x: Any) -> int:
    """Assign a slot to each word that has none, and gather their vectors; return how many there were."""
    n_new = 0
    for n in range(words.size):
        if slots[words[n]] < 0:
            slots[words[n]] = n_slots + n_new
            source, target = W_embed[words[n]], x[n_new]
            for j in range(target.size):
                target[j] = source[j]
            n_new += 1
    return n_new


@compiled()
def _multiply_unpacked(a: Any, weights: Any, begin: int, end: int, out: Any) -> None:
    """Multiply one row by columns begin..end-1 of weights as they lie, each element one chain in rising k.

    For a single caption every weight is used once a word: to pack many would cost more than it saves.
    """
    target = out[begin:end]
    for j in range(target.size):
        target[j] = 0
    depth = weights.shape[0]
    # four rows at once: of more, the compiler gives up proving that none overlaps the result
    for k in range(0, depth - 3, 4):
        a0, a1, a2, a3 = a[k], a[k + 1], a[k + 2], a[k + 3]
        w0, w1 = weights[k, begin:end], weights[k + 1, begin:end]
        w2, w3 = weights[k + 2, begin:end], weights[k + 3, begin:end]
        for j in range(target.size):
            total = target[j] + a0 * w0[j]
            total = total + a1 * w1[j]
            total = total + a2 * w2[j]
            target[j] = total + a3 * w3[j]
    for k in range(depth // 4 * 4, depth):
        row = weights[k, begin:end]
        for j in range(target.size):
            target[j] += a[k] * row[j]


@compiled(allocates=True)
def _decode(index: int, count: int, slot: int, operands: _Decoding) -> None:
    """Compute a task's units and scores of every word."""
    o = operands
    n_captions, size, vocabulary_size = o.h.shape[1], o.h.shape[2], o.b_vocab.size
    n_gates = o.Wh.shape[1] // size
    work = np.empty(scratch_size(o.multiply, o.h.itemsize), o.h.dtype)
    columns_x = pack_columns(o.multiply, o.Wx, False, n_gates, index, count, o.packed_x, work)
    columns_h = pack_columns(o.multiply, o.Wh, False, n_gates, index, count, o.packed_h, work)
    columns_vocab = columns_h
    is_packed = o.packed_vocab.size > 0
    if is_packed:
        columns_vocab = pack_columns(o.multiply, o.W_vocab, False, 1, index, count, o.packed_vocab, work)
    first_word, last_word = unit_range(index, count, vocabulary_size, o.h.itemsize)
    begin, end = columns_h.begin, columns_h.end

    slots, n_slots = np.full(vocabulary_size, -1), 0
    x = np.empty((n_captions, o.W_embed.shape[1]), o.h.dtype)
    words, has_ended = np.full(n_captions, o.start), np.zeros(n_captions, np.bool_)
    for step in range(o.out.shape[1]):
        parity = step % 2
        n_new = _gather_new_words(words, slots, n_slots, o.W_embed, x)
        product_with_columns(o.multiply, x[:n_new], columns_x, o.projections[n_slots : n_slots + n_new], work)
        n_slots += n_new
        h_before, h = o.h[parity], o.h[1 - parity]
        product_with_columns(o.multiply, h_before, columns_h, h if n_gates == 1 else o.sums, work)
        for n in range(n_captions):
            projected = o.projections[slots[words[n]]]
            row = ForwardRow(o.sums[n], projected, o.b, o.c[parity, n], o.c[1 - parity, n], h[n])
            activate_cell(n_gates, row, begin, end)
        # Without it the vocabulary product could read units of h that other tasks have not written, and the next word's
        # products could overwrite units of h_before that others still read.
        if not barrier(slot, index, count, 2 * step + 1):
            return
        if is_packed:
            product_with_columns(o.multiply, h, columns_vocab, o.scores, work)
        else:
            _multiply_unpacked(h[0], o.W_vocab, first_word, last_word, o.scores[0])
        for n in range(n_captions):
            if first_word < last_word:
                scores = o.scores[n, first_word:last_word]
                best = _best(scores, o.b_vocab[first_word:last_word])
                o.best_scores[parity, index, n], o.best_words[parity, index, n] = scores[best], first_word + best
        # Without it a task could choose from bests that others have not written. Of the next word they lie in the other
        # half: a task that is still choosing reads this one, and two words on all have passed the next barrier.
        if not barrier(slot, index, count, 2 * step + 2):
            return
        for n in range(n_captions):
            best_scores, best_words = o.best_scores[parity, :count, n], o.best_words[parity, :count, n]
            words[n] = _choose(best_scores, best_words, vocabulary_size, o.h.itemsize)
            if index == 0:
                o.out[n, step] = o.null if has_ended[n] else words[n]
            has_ended[n] |= words[n] == o.end
        if has_ended.all():
            if index == 0:
                o.out[:, step + 1 :] = o.null
            break


@compiled()
def _choose(scores: Any, words: Any, vocabulary_size: int, itemsize: int) -> int:
    """Return the best of the tasks' best words; of equal scores the first counts, as in `_best`."""
    best = -1
    for task in range(scores.size):
        first_word, last_word = unit_range(task, scores.size, vocabulary_size, itemsize)
        if first_word < last_word and (
            best < 0 or scores[task] > scores[best] or (np.isnan(scores[task]) and not np.isnan(scores[best]))
        ):
            best = task
    return int(words[best])


@parallel_job(barriers=True, operands=_Decoding, allocates=True)
def _decode_sharing_columns(index: int, count: int, slot: int, operands: _Decoding) -> None:
    _decode(index, count, slot, operands)


class _Captions(NamedTuple):
    """Operands where the captions are shared among the tasks; as of `_Decoding`."""

    multiply: Products
    W_embed: Any
    Wx: Any
    Wh: Any
    b: Any
    W_vocab: Any
    b_vocab: Any
    start: int
    end: int
    null: int
    h0: Any  # (N, H)
    out: Any


@parallel_job(operands=_Captions, allocates=True)
def _decode_sharing_captions(index: int, count: int, operands: _Captions) -> None:
    """Write some captions from first word to last: for weights so few that each thread may have all."""
    o = operands
    first, last = o.h0.shape[0] * index // count, o.h0.shape[0] * (index + 1) // count
    if first == last:
        return
    n_captions, size, n_gates = last - first, o.h0.shape[1], o.Wh.shape[1] // o.h0.shape[1]
    dtype, itemsize, vocabulary_size = o.h0.dtype, o.h0.itemsize, o.b_vocab.size
    h = np.empty((2, n_captions, size), dtype)
    h[0] = o.h0[first:last]
    c = np.zeros_like(h) if n_gates in GATES_WITH_STATE else h
    out, is_rounded = np.empty((n_captions, o.out.shape[1]), o.out.dtype), o.multiply[0] != 0
    no_slot: Any = np.int64(0)  # a single task does not touch it
    _decode(
        0,
        1,
        no_slot,
        _Decoding(
            o.multiply,
            o.W_embed,
            o.Wx,
            o.Wh,
            o.b,
            o.W_vocab,
            o.b_vocab,
            o.start,
            o.end,
            o.null,
            h,
            c,
            np.empty((n_captions, o.b.size if n_gates > 1 else 0), dtype),
            np.empty((n_captions, vocabulary_size), dtype),
            np.empty((min(n_captions * out.shape[1], o.W_embed.shape[0]), o.Wx.shape[1]), dtype),
            np.empty((2, 1, n_captions), dtype),
            np.empty((2, 1, n_captions), np.int64),
            np.empty(weights_size(o.Wx.shape[0], size, n_gates, itemsize, is_rounded, 1), dtype),
            np.empty(weights_size(size, size, n_gates, itemsize, is_rounded, 1), dtype),
            np.empty(weights_size(size, vocabulary_size, 1, itemsize, is_rounded, 1), dtype),
            out,
        ),
    )
    o.out[first:last] = out


def _packed(name: str, weights: Any, n_gates: int, precision: Precision, n_tasks: int) -> Any:
    """Return memory for the packed columns of a matrix of weights."""
    depth, columns = weights.shape
    size = packed_size(depth, columns // n_gates, n_gates, weights.itemsize, precision == "bf16", n_tasks)
    return scratch(f"packed {name}", (size,), weights.dtype)


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
    _, Wx, Wh, b, W_vocab, b_vocab = arrays = DecodingWeights(*map(contiguous, weights))
    h0 = contiguous(h)
    (n_captions, size), dtype = h0.shape, h0.dtype
    n_gates = Wh.shape[1] // size
    n_tasks = POOL.n_threads if n_captions * size * (b.size + b_vocab.size) >= WORTH_BARRIERS else 1
    out = np.empty((n_captions, max_length), dtype=np.int32)
    multiply = products(precision, n_captions, max(size, Wx.shape[0]))
    inputs: dict[str, Any] = {"multiply": multiply, **arrays._asdict(), "start": start, "end": end, "null": null}
    if n_captions >= n_tasks and Wx.nbytes + Wh.nbytes + W_vocab.nbytes <= FEW_BYTES:
        POOL.run(n_tasks, _decode_sharing_captions, *_Captions(**inputs, h0=h0, out=out))
        return out
    states = np.empty((2, n_captions, size), dtype)
    states[0] = h0
    is_packed = n_captions > 1 or W_vocab.nbytes <= NEAR_BYTES or precision != "float32"
    buffers = _Decoding(
        **inputs,
        h=states,
        c=np.zeros_like(states) if n_gates in GATES_WITH_STATE else states,
        sums=np.empty((n_captions, b.size if n_gates > 1 else 0), dtype),
        scores=scratch("scores", (n_captions, b_vocab.size), dtype),
        projections=np.empty((min(n_captions * max_length, arrays.W_embed.shape[0]), Wx.shape[1]), dtype),
        best_scores=np.empty((2, n_tasks, n_captions), dtype),
        best_words=np.empty((2, n_tasks, n_captions), np.int64),
        packed_x=_packed("Wx", Wx, n_gates, precision, n_tasks),
        packed_h=_packed("Wh", Wh, n_gates, precision, n_tasks),
        packed_vocab=_packed("W_vocab", W_vocab, 1, precision, n_tasks) if is_packed else np.empty(0, dtype),
        out=out,
    )
    POOL.run(n_tasks, _decode_sharing_columns, *buffers)
    return out
