"""The captioning model in float64, caption by caption, over all padded time steps with a mask."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles import recurrences
from oracles.recurrences import Floats


def loss(params: dict[str, Floats], features: Floats, captions: Any, null: int = 0) -> tuple[float, dict[str, Floats]]:
    """Return the loss of a minibatch and the gradients of all eight parameters.

    The cell follows from the parameters: ``Wh`` is as wide as it is high, or three or four times as wide (`cell_of`).
    """
    p, count = params, len(features)
    total, grads = 0.0, {name: np.zeros_like(value) for name, value in params.items()}
    for feature, caption in zip(features, captions, strict=True):
        words = caption[:-1]
        targets = np.where(caption[1:] == null, -1, caption[1:])
        h0 = feature @ p["W_proj"] + p["b_proj"]
        embedded = p["W_embed"][words]
        hidden, saved = run(p, embedded, h0)
        part, dlogits = recurrences.cross_entropy(hidden @ p["W_vocab"] + p["b_vocab"], targets, 1 / count)
        total += part
        dprojected, drecurrent, dh0 = run_back(p, dlogits @ p["W_vocab"].T, hidden, saved, h0)
        before = np.vstack([h0, hidden[:-1]])
        for t, word in enumerate(words):
            grads["W_embed"][word] += p["Wx"] @ dprojected[t]
            grads["Wx"] += np.outer(embedded[t], dprojected[t])
            grads["Wh"] += np.outer(before[t], drecurrent[t])
            further = p["b"].size - dprojected[t].size
            grads["b"] += np.concatenate([dprojected[t], drecurrent[t][drecurrent[t].size - further :]])
            grads["W_vocab"] += np.outer(hidden[t], dlogits[t])
            grads["b_vocab"] += dlogits[t]
        grads["W_proj"] += np.outer(feature, dh0)
        grads["b_proj"] += dh0
    return total, grads


def sample(
    params: dict[str, Floats], features: Floats, start: int, steps: int, end: int | None = None, null: int = 0
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Write each caption greedily; with `end`, NULL follows the first END."""
    p, out = params, np.full((len(features), steps), null)
    for n, feature in enumerate(features):
        h = feature @ p["W_proj"] + p["b_proj"]
        c, word = np.zeros_like(h), start
        for t in range(steps):
            h, c = step(p, p["W_embed"][word], h, c)
            out[n, t] = word = int(np.argmax(h @ p["W_vocab"] + p["b_vocab"]))
            if word == end:
                break
    return out


def cell_of(params: dict[str, Floats]) -> str:
    """Tell the cell from the shape of its recurrent weights."""
    return {1: "rnn", 3: "gru", 4: "lstm"}[params["Wh"].shape[1] // params["Wh"].shape[0]]


def step(p: dict[str, Floats], x: Floats, h: Floats, c: Floats) -> tuple[Floats, Floats]:
    """Advance one caption by one word; c of a cell without a cell state stays as it is."""
    cell, width = cell_of(p), p["Wh"].shape[1]
    a, u = x @ p["Wx"] + p["b"][:width], h @ p["Wh"]
    if cell == "lstm":
        return recurrences.lstm_step(a + u, c)[:2]
    if cell == "gru":
        u[2 * h.size :] += p["b"][width:]
        return recurrences.gru_step(a, u, h)[0], c
    return np.tanh(a + u), c


def run(p: dict[str, Floats], x: Floats, h0: Floats) -> tuple[Floats, Any]:
    """Run one caption's recurrence over its inputs (T, W); return hidden states, and what `run_back` needs."""
    cell, width = cell_of(p), p["Wh"].shape[1]
    projected = x @ p["Wx"] + p["b"][:width]
    if cell == "lstm":
        hidden, *saved = recurrences.lstm_sequence(projected, h0, np.zeros_like(h0), p["Wh"])
        return hidden, saved
    if cell == "gru":
        return recurrences.gru_sequence(projected, h0, p["Wh"], p["b"][width:])
    return recurrences.rnn_sequence(projected, h0, p["Wh"]), None


def run_back(
    p: dict[str, Floats], dhidden: Floats, hidden: Floats, saved: Any, h0: Floats
) -> tuple[Floats, Floats, Floats]:
    """Undo `run`: gradients of the inputs' sums, of the states' sums, and of h0."""
    cell, zero = cell_of(p), np.zeros_like(h0)
    if cell == "gru":
        previous = np.vstack([h0, hidden[:-1]])
        return recurrences.gru_sequence_backward(dhidden, saved, previous, p["Wh"])
    if cell == "lstm":
        states, gates = saved
        dprojected, dh0, _ = recurrences.lstm_sequence_backward(
            dhidden, np.zeros_like(states), gates, states, zero, p["Wh"]
        )
    else:
        dprojected, dh0 = recurrences.rnn_sequence_backward(dhidden, hidden, p["Wh"])
    return dprojected, dprojected, dh0
