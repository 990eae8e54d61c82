"""The captioning model in float64, caption by caption, over all padded time steps with a mask."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np

from capgpu.kernels.cells import cell_of_weights
from oracles import recurrences
from oracles.recurrences import Floats


def loss(params: dict[str, Floats], features: Floats, captions: Any, null: int = 0) -> tuple[float, dict[str, Floats]]:
    """Return the loss of a minibatch and the gradients of all eight parameters.

    The cell follows from the parameters: the width of ``Wh`` tells it (`cell_of_weights`).
    """
    p, count = params, len(features)
    total, grads = 0.0, {name: np.zeros_like(value) for name, value in params.items()}
    for feature, caption in zip(features, captions, strict=True):
        words = caption[:-1]
        targets = np.where(caption[1:] == null, -1, caption[1:])
        h0 = feature @ p["W_proj"] + p["b_proj"]
        embedded = p["W_embed"][words]
        inputs, runs = embedded, []
        for layer in layers_of(p):
            runs.append((layer, inputs, *run(layer, inputs, h0)))
            inputs = runs[-1][2]
        part, dlogits = recurrences.cross_entropy(inputs @ p["W_vocab"] + p["b_vocab"], targets, 1 / count)
        total += part
        grads["W_vocab"] += inputs.T @ dlogits
        grads["b_vocab"] += dlogits.sum(axis=0)
        dinputs, dh0 = dlogits @ p["W_vocab"].T, np.zeros_like(h0)
        for number, (layer, inputs, hidden, saved) in reversed(list(enumerate(runs, start=1))):
            dprojected, drecurrent, dlayer_h0 = run_back(layer, dinputs, hidden, saved, h0)
            dh0 += dlayer_h0
            suffix = "" if number == 1 else str(number)
            further = layer["b"].size - dprojected.shape[1]
            grads[f"Wx{suffix}"] += inputs.T @ dprojected
            grads[f"Wh{suffix}"] += np.vstack([h0, hidden[:-1]]).T @ drecurrent
            sums = dprojected.sum(axis=0), drecurrent.sum(axis=0)[drecurrent.shape[1] - further :]
            grads[f"b{suffix}"] += np.concatenate(sums)
            dinputs = dprojected @ layer["Wx"].T
        for t, word in enumerate(words):
            grads["W_embed"][word] += dinputs[t]
        grads["W_proj"] += np.outer(feature, dh0)
        grads["b_proj"] += dh0
    return total, grads


def sample(
    params: dict[str, Floats], features: Floats, start: int, steps: int, end: int | None = None, null: int = 0
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Write each caption greedily; with `end`, NULL follows the first END."""
    p, out = params, np.full((len(features), steps), null)
    for n, feature in enumerate(features):
        states, word = first_states(p, feature), start
        for t in range(steps):
            h, states = advance(p, word, states)
            out[n, t] = word = int(np.argmax(h @ p["W_vocab"] + p["b_vocab"]))
            if word == end:
                break
    return out


def layers_of(p: dict[str, Floats]) -> list[dict[str, Floats]]:
    """Return Wx, Wh and b of each layer, from the first on."""
    suffixes = itertools.takewhile(lambda s: f"Wx{s}" in p, itertools.chain([""], map(str, itertools.count(2))))
    return [{name: p[f"{name}{suffix}"] for name in ("Wx", "Wh", "b")} for suffix in suffixes]


def first_states(p: dict[str, Floats], feature: Floats) -> list[tuple[Floats, Floats]]:
    """Return the hidden and cell state of each layer before the first word."""
    h = feature @ p["W_proj"] + p["b_proj"]
    return [(h, np.zeros_like(h)) for _ in layers_of(p)]


def advance(
    p: dict[str, Floats], word: int, states: list[tuple[Floats, Floats]]
) -> tuple[Floats, list[tuple[Floats, Floats]]]:
    """Advance all layers of one caption by one word; return the last one's hidden state, and the states."""
    x, after = p["W_embed"][word], []
    for layer, (h, c) in zip(layers_of(p), states, strict=True):
        after.append(step(layer, x, h, c))
        x = after[-1][0]
    return x, after


def step(p: dict[str, Floats], x: Floats, h: Floats, c: Floats) -> tuple[Floats, Floats]:
    """Advance one caption by one word; c of a cell without a cell state stays as it is."""
    cell, width = cell_of_weights(p["Wh"]), p["Wh"].shape[1]
    a, u = x @ p["Wx"] + p["b"][:width], h @ p["Wh"]
    if cell == "lstm":
        return recurrences.lstm_step(a + u, c)[:2]
    if cell == "gru":
        u[2 * h.size :] += p["b"][width:]
        return recurrences.gru_step(a, u, h)[0], c
    return np.tanh(a + u), c


def run(p: dict[str, Floats], x: Floats, h0: Floats) -> tuple[Floats, Any]:
    """Run one caption's recurrence over its inputs (T, W); return hidden states, and what `run_back` needs."""
    cell, width = cell_of_weights(p["Wh"]), p["Wh"].shape[1]
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
    cell, zero = cell_of_weights(p["Wh"]), np.zeros_like(h0)
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
