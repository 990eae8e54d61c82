"""The recurrences in float64, one sequence and one time step at a time, as the papers write them.

Independent of the library: no packing, no batches, no gates computed together.
"""

from __future__ import annotations

from typing import Any

import numpy as np

Floats = np.ndarray[Any, np.dtype[np.float64]]


def sigmoid(a: Floats) -> Floats:
    """Return the logistic function of moderate numbers."""
    return 1.0 / (1.0 + np.exp(-a))


def lstm_step(a: Floats, c: Floats) -> tuple[Floats, Floats, Floats]:
    """Turn pre-activations (4H,) and a cell state (H,) into the next hidden and cell state and the gates."""
    size = c.size
    i, f, o = (sigmoid(a[k * size : (k + 1) * size]) for k in range(3))
    g = np.tanh(a[3 * size :])
    c = f * c + i * g
    return o * np.tanh(c), c, np.concatenate([i, f, o, g])


def lstm_sequence(projected: Floats, h0: Floats, c0: Floats, Wh: Floats) -> tuple[Floats, Floats, Floats]:
    """Run one sequence; ``projected`` (T, 4H) is ``x Wx + b``. Returns hidden, cell (T, H), gates (T, 4H)."""
    h, c = h0, c0
    hidden, cell, gates = [], [], []
    for row in projected:
        h, c, gate = lstm_step(row + h @ Wh, c)
        hidden.append(h)
        cell.append(c)
        gates.append(gate)
    size = h0.size
    return (
        np.array(hidden).reshape(-1, size),
        np.array(cell).reshape(-1, size),
        np.array(gates).reshape(-1, 4 * size),
    )


def lstm_sequence_backward(
    dhidden: Floats, dcell: Floats, gates: Floats, cell: Floats, c0: Floats, Wh: Floats
) -> tuple[Floats, Floats, Floats]:
    """Back-propagate through one sequence. Returns dprojected (T, 4H), dh0 and dc0 (H,)."""
    size = c0.size
    dh, dc = np.zeros(size), np.zeros(size)
    dprojected = np.zeros_like(gates)
    for t in range(len(gates) - 1, -1, -1):
        i, f, o, g = (gates[t, k * size : (k + 1) * size] for k in range(4))
        previous_cell = cell[t - 1] if t else c0
        dh = dh + dhidden[t]
        tanh_c = np.tanh(cell[t])
        dc = dc + dcell[t] + dh * o * (1 - tanh_c**2)
        dprojected[t] = np.concatenate(
            [
                dc * g * i * (1 - i),
                dc * previous_cell * f * (1 - f),
                dh * tanh_c * o * (1 - o),
                dc * i * (1 - g**2),
            ]
        )
        dh, dc = Wh @ dprojected[t], dc * f
    return dprojected, dh, dc


def attend(h: Floats, A: Floats) -> tuple[Floats, Floats]:
    """Return the weights (L,) that a state gives to the cells A (L, H), and their weighted sum (H,)."""
    scores = np.array([cell @ h for cell in A]) / np.sqrt(h.size)
    weights = np.exp(scores) / np.exp(scores).sum()
    return weights, sum(weight * cell for weight, cell in zip(weights, A, strict=True))


def attention_lstm_sequence(projected: Floats, A: Floats, Wh: Floats, Wattn: Floats) -> tuple[Floats, ...]:
    """Run one sequence; ``projected`` (T, 4H) is ``x Wx + b``, A (L, H) its picture's projected cells.

    Returns hidden, cell (T, H), gates (T, 4H), the states before each step (T, H), weights (T, L), contexts (T, H).
    """
    h = c = A.mean(axis=0)
    steps: list[tuple[Floats, ...]] = []
    for row in projected:
        before, (weights, context) = h, attend(h, A)
        h, c, gate = lstm_step(row + h @ Wh + context @ Wattn, c)
        steps.append((h, c, gate, before, weights, context))
    size = h.size
    widths = (size, size, 4 * size, size, len(A), size)
    return tuple(np.array([step[k] for step in steps]).reshape(-1, width) for k, width in enumerate(widths))


def attention_lstm_sequence_backward(
    dhidden: Floats,
    gates: Floats,
    cell: Floats,
    previous: Floats,
    w: Floats,
    A: Floats,
    Wh: Floats,
    Wattn: Floats,
) -> tuple[Floats, Floats]:
    """Back-propagate through one sequence with weights w (T, L). Returns dprojected (T, 4H) and dA (L, H)."""
    size = A.shape[1]
    dh, dc, dA = np.zeros(size), np.zeros(size), np.zeros_like(A)
    dprojected = np.zeros_like(gates)
    for t in range(len(gates) - 1, -1, -1):
        c_before = cell[t - 1] if t else previous[0]
        # one step of the plain LSTM, whose cell state's gradient comes from the next one
        da, dh, dc = lstm_sequence_backward(
            (dhidden[t] + dh)[None], dc[None], gates[t : t + 1], cell[t : t + 1], c_before, Wh
        )
        dprojected[t] = da[0]
        dcontext = Wattn @ da[0]
        dweights = A @ dcontext
        # the Jacobian of the softmax
        dscores = (np.diag(w[t]) - np.outer(w[t], w[t])) @ dweights / np.sqrt(size)
        dA += np.outer(w[t], dcontext) + np.outer(dscores, previous[t])
        dh = dh + dscores @ A
    return dprojected, dA + (dh + dc) / len(A)


def rnn_sequence(projected: Floats, h0: Floats, Wh: Floats) -> Floats:
    """Run one sequence of a vanilla RNN; ``projected`` (T, H) is ``x Wx + b``. Returns hidden (T, H)."""
    h, hidden = h0, []
    for row in projected:
        h = np.tanh(row + h @ Wh)
        hidden.append(h)
    return np.array(hidden).reshape(-1, h0.size)


def rnn_sequence_backward(dhidden: Floats, hidden: Floats, Wh: Floats) -> tuple[Floats, Floats]:
    """Back-propagate through one sequence. Returns dprojected (T, H) and dh0 (H,)."""
    dh = np.zeros(Wh.shape[0])
    dprojected = np.zeros_like(hidden)
    for t in range(len(hidden) - 1, -1, -1):
        dprojected[t] = (dhidden[t] + dh) * (1 - hidden[t] ** 2)
        dh = Wh @ dprojected[t]
    return dprojected, dh


def cross_entropy(logits: Floats, targets: Any, scale: float) -> tuple[float, Floats]:
    """Sum the cross-entropy of rows of scores; rows with a negative target are left out."""
    loss, dlogits = 0.0, np.zeros_like(logits)
    for row, (scores, target) in enumerate(zip(logits, targets, strict=True)):
        if target < 0:
            continue
        highest = scores.max()
        log_total = highest + np.log(np.exp(scores - highest).sum())
        loss += log_total - scores[target]
        dlogits[row] = np.exp(scores - log_total)
        dlogits[row, target] -= 1
    return scale * loss, scale * dlogits
