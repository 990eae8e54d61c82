"""The oracle of the attention LSTM: an LSTM that reads a weighted mean of a picture's grid at each step.

Features of a picture are a grid of L cells with D channels, (N, L, D): batch first, cells in the order of rows of the
grid, channels last. They are projected to ``A`` (N, L, H) by the caller, ``A = features W_proj + b_proj``. With h the
hidden state before a step and A_l a cell of the sequence's picture:

    s_l = A_l h / sqrt(H);  w = softmax(s);  z = sum_l w_l A_l
    a = x Wx + h Wh + z Wattn + b,  then the LSTM (`capgpu.kernels.reference.lstm`)
    h_0 = c_0 = mean of the cells of A

(the scaled dot-product attention of Vaswani et al. 2017 in the captioner of Xu et al. 2015). The weights w of a step
are named ``attention`` everywhere, the vectors z ``contexts``. Backward, with dz = da Wattn^T and dh of later steps:

    dw_l = A_l dz;  ds_l = w_l (dw_l - sum_k w_k dw_k);  dA_l += w_l dz + ds_l h / sqrt(H)
    dh_before = da Wh^T + sum_l ds_l A_l / sqrt(H)
    dA_l += (dh_0 + dc_0) / L

Packed rows, ``rows`` and ``order`` are those of `capgpu.kernels.reference.recurrence`; A has one grid for each sequence
of the first step, or, with ``order`` (N,), one for each of N sequences in the caller's order.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from capgpu.backend import Array, array_namespace
from capgpu.kernels.contract import AttentionStates, Precision
from capgpu.kernels.reference.lstm import lstm_backward, lstm_forward
from capgpu.kernels.reference.precision import product
from capgpu.kernels.reference.recurrence import (
    in_callers_order,
    in_rank_order,
    join_steps,
    padded_add,
    previous_states,
    step_rows,
)

__all__ = [
    "attend",
    "attend_backward",
    "attention_decode_step",
    "attention_lstm_backward",
    "attention_lstm_forward",
    "mean_of_cells",
]


def mean_of_cells(A: Array) -> Array:
    """Return the mean of the cells (N, L, H) of each picture, the initial hidden and cell state."""
    return array_namespace(A).mean(A, axis=1)


def attend(h: Array, A: Array) -> tuple[Array, Array]:
    """Weigh the cells of each picture by a hidden state.

    Parameters
    ----------
    h : array, shape (N, H)
        Hidden states.
    A : array, shape (N, L, H)
        Projected cells.

    Returns
    -------
    attention : array, shape (N, L)
        Weights of the cells.
    contexts : array, shape (N, H)
        Their weighted sums.
    """
    xp = array_namespace(h, A)
    # divided first: the sum over H products may leave the range of float16
    scores = (A @ (h / math.sqrt(h.shape[1]))[:, :, None])[:, :, 0]
    attention = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))
    attention = attention / xp.sum(attention, axis=1, keepdims=True)
    return attention, (attention[:, None, :] @ A)[:, 0, :]


def attend_backward(dcontexts: Array, attention: Array, h: Array, A: Array) -> tuple[Array, Array]:
    """Compute the backward pass of `attend`.

    Parameters
    ----------
    dcontexts : array, shape (N, H)
        Gradient with respect to the contexts.
    attention : array, shape (N, L)
        From the forward pass.
    h, A
        As for `attend`.

    Returns
    -------
    dh : array, shape (N, H)
        Gradient with respect to the hidden states.
    dA : array, shape (N, L, H)
        Gradient with respect to the projected cells.
    """
    xp = array_namespace(dcontexts, attention, h, A)
    dattention = (A @ dcontexts[:, :, None])[:, :, 0]
    dscores = attention * (dattention - xp.sum(attention * dattention, axis=1, keepdims=True))
    dscores = dscores / math.sqrt(h.shape[1])
    dA = attention[:, :, None] * dcontexts[:, None, :] + dscores[:, :, None] * h[:, None, :]
    return (dscores[:, None, :] @ A)[:, 0, :], dA


def attention_lstm_forward(
    projected: Array,
    rows: Array | None,
    A: Array,
    Wh: Array,
    Wattn: Array,
    batch_sizes: Any,
    *,
    bias: Array | None = None,
    order: Array | None = None,
    precision: Precision = "float32",
) -> AttentionStates:
    """Run an attention LSTM over packed sequences.

    Parameters
    ----------
    projected, rows, batch_sizes
        As for every recurrence (`capgpu.kernels.cells.RecurrenceForward`), with G = 4H.
    A : array, shape (batch_sizes[0], L, H), or (N, L, H) with `order`
        Projected cells. Their mean is the initial hidden state and the initial cell state.
    Wh, Wattn : array, shape (H, 4H)
        Weights of the hidden state and of the context.
    bias : array, shape (4H,), optional
        Added to the pre-activations.
    order : array of int, shape (N,), optional
        Row of `A` for each sequence.
    precision : {"float32", "bf16"}
        How the products with `Wh` and `Wattn` read their factors (`capgpu.kernels.contract.Precision`); those with `A`
        are never rounded.

    Returns
    -------
    AttentionStates
        Those of the LSTM, attention weights and contexts.
    """
    xp = array_namespace(projected, A, Wh)
    size = A.shape[2]
    grids = in_rank_order(xp, A, order, batch_sizes)
    h = c = first = mean_of_cells(grids)
    steps: list[tuple[Array, ...]] = []
    start = 0
    for count in batch_sizes.tolist():
        h, c = h[:count, :], c[:count, :]
        weights, context = attend(h, grids[:count, :, :])
        sums = step_rows(xp, projected, rows, start, start + count) + product(context, Wattn, precision)
        states = lstm_forward(sums, None, h, c, Wh, np.array([count]), bias=bias, precision=precision)
        h, c = states.hidden, states.cell
        steps.append((h, c, states.gates, weights, context))
        start += count
    hidden, cell, gates, attention, contexts = (
        join_steps(xp, [step[k] for step in steps], width, A)
        for k, width in enumerate((size, size, 4 * size, A.shape[1], size))
    )
    return AttentionStates(hidden, cell, gates, previous_states(hidden, first, batch_sizes), attention, contexts)


def attention_lstm_backward(
    dhidden: Array,
    gates: Array,
    cell: Array,
    previous: Array,
    attention: Array,
    A: Array,
    Wh: Array,
    Wattn: Array,
    batch_sizes: Any,
    *,
    order: Array | None = None,
    precision: Precision = "float32",
) -> tuple[Array, Array]:
    """Run the recurrence of an attention LSTM backward, down to the pre-activations and the projected cells.

    The gradients of weights and inputs are products over all rows at once, left to the caller.

    Parameters
    ----------
    dhidden : array, shape (M, H)
        Gradient of the loss with respect to each hidden state, from outside the recurrence.
    gates, cell, previous, attention : array, shape (M, 4H), (M, H), (M, H), (M, L)
        From the forward pass.
    A, Wh, Wattn, batch_sizes, order, precision
        As for `attention_lstm_forward`.

    Returns
    -------
    dprojected : array, shape (M, 4H)
        Gradient with respect to the pre-activations of each packed row.
    dA : array, shape (batch_sizes[0], L, H), or (N, L, H) with `order`
        Gradient with respect to the projected cells, through contexts, scores and initial states; zero for sequences
        without any step.
    """
    xp = array_namespace(dhidden, gates, A, Wh)
    grids = in_rank_order(xp, A, order, batch_sizes)
    counts = batch_sizes.tolist()
    stop = dhidden.shape[0]
    dh = dc = xp.zeros((0, A.shape[2]), dtype=A.dtype, device=A.device)
    dgrids = xp.zeros((0, *A.shape[1:]), dtype=A.dtype, device=A.device)
    out: list[Array] = []
    for step in reversed(range(len(counts))):
        count = counts[step]
        start = stop - count
        # the initial cell states are the initial hidden states
        c_before = cell[start - counts[step - 1] : start - counts[step - 1] + count, :] if step else previous[:count, :]
        dh = padded_add(xp, dhidden[start:stop, :], dh)
        dc = padded_add(xp, xp.zeros_like(dhidden[start:stop, :]), dc)
        states = None, cell[start:stop, :], gates[start:stop, :], None
        da, _, dh, dc = lstm_backward(dh, dc, *states, c_before, Wh, np.array([count]), precision=precision)
        out.append(da)
        dcontexts = product(da, xp.matrix_transpose(Wattn), precision)
        here = grids[:count, :, :]
        dh_attention, dA = attend_backward(dcontexts, attention[start:stop, :], previous[start:stop, :], here)
        dh = dh + dh_attention
        dgrids = padded_add(xp, dA, dgrids)
        stop = start
    dgrids = dgrids + ((dh + dc) / A.shape[1])[:, None, :]
    return join_steps(xp, out[::-1], Wh.shape[1], A), in_callers_order(xp, dgrids, order)


def attention_decode_step(
    projected: Array,
    rows: Array | None,
    h: Array,
    c: Array,
    A: Array,
    pictures: Array | None,
    Wh: Array,
    Wattn: Array,
    W_vocab: Array,
    b_vocab: Array,
    parents: Array | None = None,
    *,
    precision: Precision = "float32",
) -> tuple[Array, Array, Array, Array]:
    """Advance N sequences by one word: attention, LSTM, then scores over the vocabulary.

    Parameters
    ----------
    projected, rows
        As for the recurrence, one packed row a sequence.
    h, c : array, shape (P, H)
        Hidden and cell states; P = N without `parents`.
    A : array, shape (B, L, H)
        Projected cells of B pictures.
    pictures : array of int, shape (P,), or None
        Picture of each state; None: its own, P = B.
    Wh, Wattn : array, shape (H, 4H)
        Weights of the hidden state and of the context.
    W_vocab, b_vocab : array, shape (H, V) and (V,)
        Vocabulary projection.
    parents : array of int, shape (N,), optional
        Row of `h`, `c` and `pictures` that each sequence goes on from, in ``[0, P)``; None: its own.
    precision : {"float32", "bf16"}
        As for `attention_lstm_forward`.

    Returns
    -------
    logits : array, shape (N, V)
        Scores of the next word.
    h, c : array, shape (N, H)
        The next states.
    attention : array, shape (N, L)
        Weights of the cells at this step.
    """
    xp = array_namespace(projected, h, A)
    grids = A if pictures is None else xp.take(A, pictures, axis=0)
    if parents is not None:
        h, c, grids = (xp.take(array, parents, axis=0) for array in (h, c, grids))
    attention, contexts = attend(h, grids)
    sums = step_rows(xp, projected, rows, 0, h.shape[0]) + product(contexts, Wattn, precision)
    states = lstm_forward(sums, None, h, c, Wh, np.array([h.shape[0]]), precision=precision)
    assert states.cell is not None
    return product(states.hidden, W_vocab, precision) + b_vocab, states.hidden, states.cell, attention
