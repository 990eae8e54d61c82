"""The attention LSTM on the device; the kernels are in attention.cu.

A step is one matrix product, of [h | context] with [Wh; Wattn], and one launch for everything else: the cell, and the
attention of the next step. No launch depends on the sizes of later steps than the first: products have the rows of the
first step, so that a step can be captured in a CUDA graph, and has the same bits whether it is or not.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from capgpu.kernels.contract import AttentionStates, Precision, check_precision
from capgpu.kernels.cuda import decode
from capgpu.kernels.cuda.array_checks import check_device, contiguous, empty, operand, pointers, sum_dtype
from capgpu.kernels.cuda.compile import kernel
from capgpu.kernels.cuda.constants import ATTENTION_CELLS, ATTENTION_THREADS
from capgpu.kernels.cuda.device_calls import add_into, copy_into, fill, take_rows
from capgpu.kernels.cuda.gemm import product
from capgpu.kernels.cuda.recurrence import Steps
from capgpu.kernels.cuda.workspace import Workspace, workspace

__all__ = ["attention_decode_step", "attention_lstm_backward", "attention_lstm_forward"]


def attention_lstm_forward(
    projected: Any,
    rows: Any,
    A: Any,
    Wh: Any,
    Wattn: Any,
    batch_sizes: Any,
    *,
    bias: Any = None,
    order: Any = None,
    precision: Precision = "float32",
) -> AttentionStates:
    """Run an attention LSTM over packed sequences; see `capgpu.kernels.reference.attention_lstm_forward`."""
    check_precision(precision, Wh.dtype)
    check_device(projected=projected, rows=rows, A=A, Wh=Wh, Wattn=Wattn, bias=bias, order=order)
    steps, space, dtype = Steps.of(batch_sizes), workspace(), A.dtype
    (_, L, H), M = A.shape, sum(steps.counts)
    shapes = {
        "hidden states": (M, H),
        "cell states": (M, H),
        "gates": (M, 4 * H),
        "previous states": (M, H),
        "attention weights": (M, L),
        "contexts": (M, H),
    }
    outputs = [empty(shape, dtype, f"the {name}") for name, shape in shapes.items()]
    if steps.counts:
        count = steps.counts[0]
        weights = _joined_weights(space, Wh, Wattn)
        factors = space.take("attention: h and context", (count, 2 * H), dtype)
        sums = space.take("attention: sums", (count, 4 * H), dtype)
        scores = space.take("attention: scores", (count, L), sum_dtype(dtype))
        read = pointers(*map(operand, (projected, rows, bias, A, order)), steps.sizes, sums)
        step, T = kernel("attention_lstm_forward", dtype), len(steps.counts)
        for t in range(T + 1):
            step(count, ATTENTION_THREADS, (*read, factors, scores, *outputs, *map(np.int32, (H, L, T, t))))
            if t < T:
                product(factors, weights, sums, precision)
    return AttentionStates(*outputs)


def attention_lstm_backward(
    dhidden: Any,
    gates: Any,
    cell: Any,
    previous: Any,
    attention: Any,
    A: Any,
    Wh: Any,
    Wattn: Any,
    batch_sizes: Any,
    *,
    order: Any = None,
    precision: Precision = "float32",
) -> tuple[Any, Any]:
    """Run the recurrence backward; see `capgpu.kernels.reference.attention_lstm_backward`."""
    check_precision(precision, Wh.dtype)
    saved = {"gates": gates, "cell": cell, "previous": previous, "attention": attention}
    check_device(dhidden=dhidden, **saved, A=A, Wh=Wh, Wattn=Wattn, order=order)
    steps, space, dtype = Steps.of(batch_sizes), workspace(), A.dtype
    (N, L, H), M = A.shape, sum(steps.counts)
    dprojected = empty((M, 4 * H), dtype, "the gradient of the pre-activations")
    dA = empty(A.shape, dtype, "the gradient of the projected cells")
    if not steps.counts:
        fill(dA, 0)
        return dprojected, dA
    count, T, acc = steps.counts[0], len(steps.counts), sum_dtype(dtype)
    weights = _joined_weights(space, Wh, Wattn)
    dleft = space.take("attention: gradient of h and context", (count, 2 * H), dtype)
    da = space.take("attention: gradient of sums", (count, 4 * H), dtype)
    dc = space.take("attention: gradient of cell states", (count, H), acc)
    dcontexts = space.take("attention: gradient of contexts", (M, H), dtype)
    dscores = space.take("attention: gradient of scores", (M, L), acc)
    operands = map(operand, (dhidden, gates, cell, previous, attention, A, order))
    read = dhidden, gates, cell, previous, attention, A, order = pointers(*operands)
    step = kernel("attention_lstm_backward", dtype)
    for t in range(T - 1, -2, -1):
        written = (da, dc, dprojected, dcontexts, dscores)
        step(count, ATTENTION_THREADS, (*read, steps.sizes, dleft, *written, *map(np.int32, (H, L, T, t))))
        if t >= 0:
            product(da, weights.T, dleft, precision)
    kernel("attention_gradient", dtype)(
        N * -(-L // ATTENTION_CELLS),
        ATTENTION_THREADS,
        (attention, dscores, dcontexts, previous, dc, order, steps.sizes, dA, *map(np.int32, (H, L, T))),
    )
    return dprojected, dA


def attention_decode_step(
    projected: Any,
    rows: Any,
    h: Any,
    c: Any,
    A: Any,
    pictures: Any,
    Wh: Any,
    Wattn: Any,
    W_vocab: Any,
    b_vocab: Any,
    parents: Any = None,
    *,
    precision: Precision = "float32",
) -> tuple[Any, Any, Any, Any]:
    """Advance N sequences by one word; see `capgpu.kernels.reference.attention_decode_step`."""
    check_precision(precision, h.dtype)
    weights = {"Wh": Wh, "Wattn": Wattn, "W_vocab": W_vocab, "b_vocab": b_vocab}
    check_device(projected=projected, rows=rows, h=h, c=c, A=A, pictures=pictures, parents=parents, **weights)
    if parents is not None:
        h, c = take_rows(h, parents), take_rows(c, parents)
        pictures = parents if pictures is None else take_rows(pictures, parents)
    h, c, A, space, dtype = contiguous(h), contiguous(c), contiguous(A), workspace(), h.dtype
    (count, H), L = h.shape, A.shape[1]
    h_next, c_next = (empty(h.shape, dtype, f"the {name} state") for name in ("hidden", "cell"))
    attention = empty((count, L), dtype, "the attention weights")
    logits = empty((count, W_vocab.shape[1]), dtype, "the scores of the next word")
    contexts = space.take("attention: contexts", (count, H), dtype)
    scores = space.take("attention: scores", (count, L), sum_dtype(dtype))
    sums, context_sums = (space.take(f"attention: sums of {name}", (count, 4 * H), dtype) for name in ("h", "contexts"))
    read = pointers(h, A, operand(pictures))
    kernel("attend", dtype)(count, ATTENTION_THREADS, (*read, scores, attention, contexts, *map(np.int32, (H, L))))
    product(h, Wh, sums, precision)
    product(contexts, Wattn, context_sums, precision)
    add_into(sums, context_sums)
    decode.advance_cell(contiguous(projected), operand(rows), sums, None, None, (h, c), h_next, c_next)
    product(h_next, W_vocab, logits, precision)
    add_into(logits, b_vocab)
    return logits, h_next, c_next, attention


def _joined_weights(space: Workspace, Wh: Any, Wattn: Any) -> Any:
    """Copy both weights of a step's product to one matrix (2H, 4H): one product a step instead of two."""
    H, G = Wh.shape
    weights = space.take("attention: weights", (2 * H, G), Wh.dtype)
    copy_into(weights[:H], Wh)
    copy_into(weights[H:], Wattn)
    return weights
