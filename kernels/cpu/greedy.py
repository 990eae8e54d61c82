"""Greedy decoding of whole captions in one compiled call: weights are packed once, for all words.

Many captions: each thread writes its own, to the end. A few: the product of a step is as much as reading the weights,
so the threads share the columns of each product, and meet twice a word: when the hidden state is whole, and when
each has found the best word of its columns. The projection of a word is kept for when it comes again.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.cpu.compile import compiled
from capgpu.kernels.cpu.elementary import hyperbolic_tangent
from capgpu.kernels.cpu.handoff import announce, meet, publisher
from capgpu.kernels.cpu.lstm import activate_lstm
from capgpu.kernels.cpu.product import GROUP, PACK, aligned, matmul, pack_panels, packed_product, packed_size
from capgpu.kernels.cpu.rnn import activate_rnn
from capgpu.kernels.cpu.softmax import greatest
from capgpu.kernels.cpu.team import TEAM, Region
from capgpu.kernels.cpu.tile import PANEL_BYTES, ROWS, tile

__all__ = ["greedy_captions"]

#: Scores that are looked through at once.
RUN = 512
#: Below this many multiply-adds a word one thread is faster than two that meet.
WORTH_MEETING = 100_000


@compiled(allocates=False)
def _best(scores: Any, bias: Any) -> int:
    """Return the first index of the greatest score."""
    for j in range(scores.size):
        scores[j] += bias[j]
    # the run that holds it is found by vectors, its place in the run one by one
    run, top = 0, greatest(scores[:RUN])
    for start in range(RUN, scores.size, RUN):
        score = greatest(scores[start : start + RUN])
        if score > top:
            run, top = start, score
    for j in range(run, min(run + RUN, scores.size)):
        if scores[j] == top:
            return j
    return 0


@compiled()
def _many(
    index: int,
    count: int,
    h0: Any,
    table: Any,
    W_embed: Any,
    packed_Wx: Any,
    b: Any,
    packed_Wh: Any,
    packed_vocab: Any,
    b_vocab: Any,
    start: int,
    end: int,
    null: int,
    out: Any,
) -> None:
    """Write every count-th caption."""
    size, gates = h0.shape[1], b.size
    mine = (h0.shape[0] - index + count - 1) // count
    h, c, c_next = np.empty((mine, size), h0.dtype), np.zeros((mine, size), h0.dtype), np.empty((mine, size), h0.dtype)
    sums, scores = np.empty((mine, gates), h0.dtype), np.empty((mine, b_vocab.size), h0.dtype)
    tabled = table.shape[0] > 0
    x = np.empty((0 if tabled else mine, W_embed.shape[1]), h0.dtype)
    projected = np.empty((0 if tabled else mine, gates), h0.dtype)
    words, ended = np.full(mine, start), np.zeros(mine, np.bool_)
    edge = aligned(ROWS * (PANEL_BYTES // h0.itemsize), h0)
    for i in range(mine):
        h[i] = h0[index + i * count]
    for step in range(out.shape[1]):
        if not tabled:
            for i in range(mine):
                x[i] = W_embed[words[i]]
            packed_product(x, 0, 1, mine, packed_Wx, x.shape[1], projected, 0, 1, edge)
            projected += b
        packed_product(h, 0, 1, mine, packed_Wh, size, sums, 0, 1, edge)
        for i in range(mine):
            inputs = table[words[i]] if tabled else projected[i]
            if gates == size:
                h[i] = sums[i]
                activate_rnn(h[i], inputs)
            else:
                activate_lstm(sums[i], inputs, c[i], c_next[i], h[i])
        c, c_next = c_next, c
        packed_product(h, 0, 1, mine, packed_vocab, size, scores, 0, 1, edge)
        for i in range(mine):
            words[i] = _best(scores[i], b_vocab)
            out[index + i * count, step] = null if ended[i] else words[i]
            ended[i] |= words[i] == end
        if ended.all():
            out[index::count, step + 1 :] = null
            break


_publish_many = publisher(_many)


@compiled()
def _launch_many(memory: int, ticket: int, count: int, arguments: Any) -> None:
    _publish_many(memory, count, arguments)
    announce(memory, ticket)


MANY = Region(_many, _launch_many)


@compiled()
def _own_panels(W: Any, first: int, columns: int, start: int, stop: int) -> Any:
    """Pack the panels start..stop-1 of the columns of W that begin at `first`, each whole."""
    lanes, depth = PANEL_BYTES // W.itemsize, W.shape[0]
    packed = aligned((stop - start) * depth * lanes, W)
    for group in range(start, stop, GROUP):
        last = min(group + GROUP, stop)
        pack_panels(W, False, 0, depth, first, columns, group, last, packed, (group - start) * depth * lanes)
    return packed


@compiled(allocates=False)
def _panels_product(A: Any, row: int, rows: int, packed: Any, C: Any, c_row: int, column: int, panels: int) -> None:
    """Multiply a few rows of A by packed panels into whole panels of C, from a column on."""
    size, depth = A.itemsize, A.shape[1]
    lanes = PANEL_BYTES // size
    for p in range(panels):
        tile(
            A,
            A.ctypes.data + row * depth * size,
            depth,
            packed.ctypes.data + p * depth * lanes * size,
            C.ctypes.data + (c_row * C.shape[1] + column + p * lanes) * size,
            C.shape[1],
            depth,
            rows,
            False,
            0,
        )


@compiled(allocates=False)
def _activate_units(sums: Any, inputs: Any, c: Any, h: Any, kinds: int, padded: int, left: int, right: int) -> None:
    """Activate the gates of some hidden units of one caption."""
    if kinds == 1:
        a, x, target = sums[left:right], inputs[left:right], h[left:right]
        for j in range(target.size):
            target[j] = hyperbolic_tangent(a[j] + x[j])
        return
    one, half = c.dtype.type(1), c.dtype.type(0.5)
    cell, target = c[left:right], h[left:right]
    for kind in range(4):
        a, x = sums[kind * padded + left : kind * padded + right], inputs[kind * padded + left : kind * padded + right]
        if kind == 3:
            for j in range(a.size):
                a[j] = hyperbolic_tangent(a[j] + x[j])
        else:
            for j in range(a.size):
                a[j] = half * (hyperbolic_tangent(half * (a[j] + x[j])) + one)
    i, f = sums[left:right], sums[padded + left : padded + right]
    o, g = sums[2 * padded + left : 2 * padded + right], sums[3 * padded + left : 3 * padded + right]
    for j in range(cell.size):
        cell[j] = f[j] * cell[j] + i[j] * g[j]
    for j in range(cell.size):
        target[j] = o[j] * hyperbolic_tangent(cell[j])


@compiled()
def _few(
    index: int,
    count: int,
    h: Any,
    c: Any,
    sums: Any,
    scores: Any,
    projections: Any,
    tops: Any,
    words_of: Any,
    meeting: Any,
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
    """Compute some columns of every step of a few captions; `h` holds two states, taken in turn."""
    captions, size = h.shape[1], h.shape[2]
    lanes = PANEL_BYTES // h.itemsize
    kinds = b.size // size
    panels = (size + lanes - 1) // lanes
    first, last = panels * index // count, panels * (index + 1) // count
    left, right = first * lanes, min(size, last * lanes)
    padded = panels * lanes
    depth, inputs = size * (last - first) * lanes, W_embed.shape[1] * (last - first) * lanes
    packed_h, packed_x = aligned(kinds * depth, h), aligned(kinds * inputs, h)
    for kind in range(kinds):
        packed_h[kind * depth : (kind + 1) * depth] = _own_panels(Wh, kind * size, size, first, last)
        packed_x[kind * inputs : (kind + 1) * inputs] = _own_panels(Wx, kind * size, size, first, last)
    vocabulary = (b_vocab.size + lanes - 1) // lanes
    v_first, v_last = vocabulary * index // count, vocabulary * (index + 1) // count
    v_left, v_right = v_first * lanes, min(b_vocab.size, v_last * lanes)
    packed_vocab = _own_panels(W_vocab, 0, b_vocab.size, v_first, v_last)

    slots, used = np.full(W_embed.shape[0], -1), 0
    words, ended = np.full(captions, start), np.zeros(captions, np.bool_)
    meetings = 0
    for step in range(out.shape[1]):
        before, after = h[step % 2], h[(step + 1) % 2]
        for n in range(captions):
            if slots[words[n]] < 0:
                slots[words[n]] = used
                for kind in range(kinds):
                    packed = packed_x[kind * inputs : (kind + 1) * inputs]
                    _panels_product(W_embed, words[n], 1, packed, projections, used, kind * padded + left, last - first)
                    if left < right:
                        row = projections[used, kind * padded + left : kind * padded + right]
                        row += b[kind * size + left : kind * size + right]
                used += 1
        for kind in range(kinds):
            packed = packed_h[kind * depth : (kind + 1) * depth]
            _panels_product(before, 0, captions, packed, sums, 0, kind * padded + left, last - first)
        if left < right:
            for n in range(captions):
                _activate_units(sums[n], projections[slots[words[n]]], c[n], after[n], kinds, padded, left, right)
        meetings += 1
        meet(meeting.ctypes.data, index, count, meetings)
        _panels_product(after, 0, captions, packed_vocab, scores, 0, v_left, v_last - v_first)
        for n in range(captions):
            if v_left < v_right:
                own = scores[n, v_left:v_right]
                best = _best(own, b_vocab[v_left:v_right])
                tops[step % 2, index, n], words_of[step % 2, index, n] = own[best], v_left + best
        meetings += 1
        meet(meeting.ctypes.data, index, count, meetings)
        for n in range(captions):
            chosen = 0
            for other in range(count):
                # an empty share has no columns, and an equal score of later columns does not win
                empty = vocabulary * other // count == vocabulary * (other + 1) // count
                if not empty and (
                    vocabulary * chosen // count == vocabulary * (chosen + 1) // count
                    or tops[step % 2, other, n] > tops[step % 2, chosen, n]
                ):
                    chosen = other
            words[n] = words_of[step % 2, chosen, n]
            if index == 0:
                out[n, step] = null if ended[n] else words[n]
            ended[n] |= words[n] == end
        if ended.all():
            if index == 0:
                out[:, step + 1 :] = null
            break


_publish_few = publisher(_few)


@compiled()
def _launch_few(memory: int, ticket: int, count: int, arguments: Any) -> None:
    _publish_few(memory, count, arguments)
    announce(memory, ticket)


FEW = Region(_few, _launch_few)


def greedy_captions(features: Any, max_length: int, start: int, end: int, null: int, params: dict[str, Any]) -> Any:
    """Write captions greedily; see `capgpu.kernels.reference.whole.greedy_captions`."""
    W_embed, W_proj, b_proj, Wx, Wh, b, W_vocab, b_vocab = (np.ascontiguousarray(a) for a in params.values())
    h0 = matmul(features, W_proj, b_proj)
    captions, size = h0.shape
    out = np.empty((captions, max_length), dtype=np.int32)
    if captions <= ROWS:
        lanes = PANEL_BYTES // h0.itemsize
        padded = -(-size // lanes) * lanes * (b.size // size)
        work = captions * size * (b.size + b_vocab.size)
        members = TEAM.size if work >= WORTH_MEETING else 1
        h = np.empty((2, captions, size), dtype=h0.dtype)
        h[0] = h0
        TEAM.run_together(
            members,
            FEW,
            h,
            np.zeros_like(h0),
            np.empty((captions, padded), h0.dtype),
            np.empty((captions, -(-b_vocab.size // lanes) * lanes), h0.dtype),
            np.empty((min(captions * max_length, W_embed.shape[0]), padded), h0.dtype),
            np.empty((2, members, captions), h0.dtype),
            np.empty((2, members, captions), np.int64),
            np.zeros(8 * members, np.int64),
            W_embed,
            Wx,
            Wh,
            b,
            W_vocab,
            b_vocab,
            start,
            end,
            null,
            out,
        )
        return out
    # projecting the whole vocabulary once pays when more words will be read than it holds
    tabled = captions * max_length >= W_embed.shape[0]
    table = matmul(W_embed, Wx, b) if tabled else np.empty((0, b.size), h0.dtype)
    packed = []
    members = TEAM.size if captions * size * b.size >= WORTH_MEETING else 1
    for weights in (Wx, Wh, W_vocab):
        packed.append(np.empty(packed_size(weights.shape[0], weights.shape[1], weights.itemsize), h0.dtype))
        TEAM.run(members, PACK, weights, False, packed[-1])
    packed_Wx, packed_Wh, packed_vocab = packed
    TEAM.run(members, MANY, h0, table, W_embed, packed_Wx, b, packed_Wh, packed_vocab, b_vocab, start, end, null, out)
    return out
