"""The captioning model in float64, caption by caption, over all padded time steps with a mask."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles import recurrences
from oracles.recurrences import Floats


def loss(params: dict[str, Floats], features: Floats, captions: Any, null: int = 0) -> tuple[float, dict[str, Floats]]:
    """Return the loss of a minibatch and the gradients of all eight parameters.

    The cell is told from the parameters: an LSTM's ``Wh`` is four times as wide as it is high.
    """
    p, count = params, len(features)
    total, grads = 0.0, {name: np.zeros_like(value) for name, value in params.items()}
    for feature, caption in zip(features, captions, strict=True):
        words = caption[:-1]
        targets = np.where(caption[1:] == null, -1, caption[1:])
        h0 = feature @ p["W_proj"] + p["b_proj"]
        embedded = p["W_embed"][words]
        projected = embedded @ p["Wx"] + p["b"]
        zero = np.zeros_like(h0)
        if is_lstm(p):
            hidden, cell, gates = recurrences.lstm_sequence(projected, h0, zero, p["Wh"])
        else:
            hidden = recurrences.rnn_sequence(projected, h0, p["Wh"])
        part, dlogits = recurrences.cross_entropy(hidden @ p["W_vocab"] + p["b_vocab"], targets, 1 / count)
        total += part
        dhidden = dlogits @ p["W_vocab"].T
        if is_lstm(p):
            dprojected, dh0, _ = recurrences.lstm_sequence_backward(
                dhidden, np.zeros_like(cell), gates, cell, zero, p["Wh"]
            )
        else:
            dprojected, dh0 = recurrences.rnn_sequence_backward(dhidden, hidden, p["Wh"])
        before = np.vstack([h0, hidden[:-1]])
        for t, word in enumerate(words):
            grads["W_embed"][word] += p["Wx"] @ dprojected[t]
            grads["Wx"] += np.outer(embedded[t], dprojected[t])
            grads["Wh"] += np.outer(before[t], dprojected[t])
            grads["b"] += dprojected[t]
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
            a = p["W_embed"][word] @ p["Wx"] + h @ p["Wh"] + p["b"]
            if is_lstm(p):
                h, c, _ = recurrences.lstm_step(a, c)
            else:
                h = np.tanh(a)
            out[n, t] = word = int(np.argmax(h @ p["W_vocab"] + p["b_vocab"]))
            if word == end:
                break
    return out


def is_lstm(params: dict[str, Floats]) -> bool:
    """Tell an LSTM's parameters from those of a vanilla RNN."""
    return params["Wh"].shape[1] == 4 * params["Wh"].shape[0]
