"""The layers of the exercises in float64, sample by sample, built on the plain recurrences."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles import recurrences
from oracles.recurrences import Floats


def affine(x: Floats, w: Floats, b: Floats) -> Floats:
    """Apply an affine map to every sample, flattened."""
    return np.array([[sample.ravel() @ w[:, m] + b[m] for m in range(b.size)] for sample in x])


def temporal_affine(x: Floats, w: Floats, b: Floats) -> Floats:
    """Apply an affine map to every time step of every sample."""
    return np.array([[step @ w + b for step in sample] for sample in x])


def word_embedding(x: Any, W: Floats) -> Floats:
    """Look words up one by one."""
    return np.array([[W[word] for word in caption] for caption in x])


def rnn_step(x: Floats, prev_h: Floats, Wx: Floats, Wh: Floats, b: Floats) -> Floats:
    """Advance a batch by one step."""
    return np.array([np.tanh(x[n] @ Wx + prev_h[n] @ Wh + b) for n in range(len(x))])


def rnn(x: Floats, h0: Floats, Wx: Floats, Wh: Floats, b: Floats) -> Floats:
    """Run a batch of sequences."""
    return np.array([recurrences.rnn_sequence(x[n] @ Wx + b, h0[n], Wh) for n in range(len(x))])


def lstm_step(x: Floats, prev_h: Floats, prev_c: Floats, Wx: Floats, Wh: Floats, b: Floats) -> tuple[Floats, Floats]:
    """Advance a batch by one step."""
    steps = [recurrences.lstm_step(x[n] @ Wx + prev_h[n] @ Wh + b, prev_c[n]) for n in range(len(x))]
    return np.array([step[0] for step in steps]), np.array([step[1] for step in steps])


def lstm(x: Floats, h0: Floats, Wx: Floats, Wh: Floats, b: Floats) -> Floats:
    """Run a batch of sequences from a zero cell state."""
    zero = np.zeros(h0.shape[1])
    return np.array([recurrences.lstm_sequence(x[n] @ Wx + b, h0[n], zero, Wh)[0] for n in range(len(x))])


def gru_step(x: Floats, prev_h: Floats, Wx: Floats, Wh: Floats, b: Floats) -> Floats:
    """Advance a batch by one step."""
    return gru(x[:, None], prev_h, Wx, Wh, b)[:, 0]


def gru(x: Floats, h0: Floats, Wx: Floats, Wh: Floats, b: Floats) -> Floats:
    """Run a batch of sequences."""
    width = Wh.shape[1]
    return np.array([recurrences.gru_sequence(x[n] @ Wx + b[:width], h0[n], Wh, b[width:])[0] for n in range(len(x))])


def _cells(grid: Floats) -> Floats:
    """Return the cells (R C, H) of a grid (H, R, C), row by row."""
    return np.array([grid[:, r, c] for r in range(grid.shape[1]) for c in range(grid.shape[2])])


def dot_product_attention(prev_h: Floats, A: Floats) -> Floats:
    """Sum the cells of each picture, weighted by its state."""
    return np.array([recurrences.attend(h, _cells(grid))[1] for h, grid in zip(prev_h, A, strict=True)])


def attention_step(
    x: Floats, prev_h: Floats, prev_c: Floats, attn: Floats, Wx: Floats, Wh: Floats, Wattn: Floats, b: Floats
) -> tuple[Floats, Floats]:
    """Advance a batch by one step."""
    sums = x @ Wx + prev_h @ Wh + attn @ Wattn + b
    steps = [recurrences.lstm_step(row, c) for row, c in zip(sums, prev_c, strict=True)]
    return np.array([step[0] for step in steps]), np.array([step[1] for step in steps])


def attention(x: Floats, A: Floats, Wx: Floats, Wh: Floats, Wattn: Floats, b: Floats) -> Floats:
    """Run a batch of sequences, each over the cells of its picture."""
    runs = zip(x, A, strict=True)
    return np.array(
        [recurrences.attention_lstm_sequence(rows @ Wx + b, _cells(grid), Wh, Wattn)[0] for rows, grid in runs]
    )


def temporal_softmax_loss(x: Floats, y: Any, mask: Any) -> float:
    """Sum the cross-entropy over unmasked steps, divided by the batch size."""
    counted = [(x[n, t], y[n, t]) for n in range(len(x)) for t in range(x.shape[1]) if mask[n, t]]
    if not counted:
        return 0.0
    scores, words = zip(*counted, strict=True)
    return recurrences.cross_entropy(np.array(scores), words, 1 / len(x))[0]
