"""The exercise as a student solves it: plain NumPy, one step of time after the other, every padded token.

Written the way the course's notebook leads to: functions with caches, a Python loop over time, `np.add.at`
for the embedding, an Adam update per parameter.  It follows the dtype of its parameters; in float64 it is
the oracle that all competitors are checked against.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.workloads import (
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPS,
    CELLS,
    NULL,
    SAMPLE_LENGTH,
    START,
    Workload,
    sample_count,
    split_cell,
    suffixes,
)

Array = NDArray[np.floating[Any]]


def versions() -> dict[str, str]:
    """Return what this competitor runs on."""
    blas = np.show_config(mode="dicts")["Build Dependencies"]["blas"]
    return {"numpy": np.__version__, "blas": f"{blas['name']} {blas['version']}"}


def sigmoid(x: Array) -> Array:
    """Return the logistic function without overflow for either sign."""
    z = np.exp(-np.abs(x))
    return np.where(x >= 0, 1 / (1 + z), z / (1 + z))


def rnn_step(x: Array, h: Array, wx: Array, wh: Array, b: Array) -> tuple[Array, Any]:
    """Compute one step of the vanilla RNN: the next hidden state, (N, H)."""
    next_h = np.tanh(x @ wx + h @ wh + b)
    return next_h, (x, h, next_h)


def rnn_step_back(dh: Array, wx: Array, wh: Array, cache: Any) -> tuple[Array, ...]:
    """Return dx, dh_prev, dWx, dWh, db of one RNN step."""
    x, h, next_h = cache
    da = dh * (1 - next_h * next_h)
    return da @ wx.T, da @ wh.T, x.T @ da, h.T @ da, da.sum(axis=0)


def lstm_step(x: Array, h: Array, c: Array, wx: Array, wh: Array, b: Array) -> tuple[Array, Array, Any]:
    """Compute one step of the LSTM: the next hidden and cell state, (N, H) each."""
    hidden = h.shape[1]
    a = x @ wx + h @ wh + b
    i = sigmoid(a[:, :hidden])
    f = sigmoid(a[:, hidden : 2 * hidden])
    o = sigmoid(a[:, 2 * hidden : 3 * hidden])
    g = np.tanh(a[:, 3 * hidden :])
    next_c = f * c + i * g
    tanh_c = np.tanh(next_c)
    return o * tanh_c, next_c, (x, h, c, i, f, o, g, tanh_c)


def lstm_step_back(dh: Array, dc: Array, wx: Array, wh: Array, cache: Any) -> tuple[Array, ...]:
    """Return dx, dh_prev, dc_prev, dWx, dWh, db of one LSTM step."""
    x, h, c, i, f, o, g, tanh_c = cache
    dc = dc + dh * o * (1 - tanh_c * tanh_c)
    da = np.concatenate(
        [dc * g * i * (1 - i), dc * c * f * (1 - f), dh * tanh_c * o * (1 - o), dc * i * (1 - g * g)],
        axis=1,
    )
    return da @ wx.T, da @ wh.T, dc * f, x.T @ da, h.T @ da, da.sum(axis=0)


def gru_step(x: Array, h: Array, wx: Array, wh: Array, b: Array) -> tuple[Array, Any]:
    """Compute one step of the GRU in PyTorch's form: the next hidden state, (N, H)."""
    width, size = wh.shape[1], h.shape[1]
    a, u = x @ wx + b[:width], h @ wh
    rz = sigmoid(a[:, : 2 * size] + u[:, : 2 * size])
    r, z = rz[:, :size], rz[:, size:]
    q = u[:, 2 * size :] + b[width:]
    n = np.tanh(a[:, 2 * size :] + r * q)
    return (1 - z) * n + z * h, (x, h, r, z, n, q)


def gru_step_back(dh: Array, wx: Array, wh: Array, cache: Any) -> tuple[Array, ...]:
    """Compute the gradients of x, h, wx, wh and b."""
    x, h, r, z, n, q = cache
    dn = dh * (1 - z) * (1 - n * n)
    dr, dz = dn * q * r * (1 - r), dh * (h - n) * z * (1 - z)
    da, du = np.hstack([dr, dz, dn]), np.hstack([dr, dz, dn * r])
    db = np.concatenate([da.sum(axis=0), du[:, -h.shape[1] :].sum(axis=0)])
    return da @ wx.T, dh * z + du @ wh.T, x.T @ da, h.T @ du, db


def forward_over_time(p: dict[str, Array], x: Array, h: Array, cell: str, suffix: str = "") -> tuple[Array, list[Any]]:
    """Run a layer over x (N, T, W) from h (N, H); return all hidden states (N, T, H) and the caches."""
    n, steps, _ = x.shape
    out = np.zeros((n, steps, h.shape[1]), dtype=x.dtype)
    c = np.zeros_like(h)
    weights = [p[f"{name}{suffix}"] for name in ("Wx", "Wh", "b")]
    caches = []
    for t in range(steps):
        if cell == "lstm":
            h, c, cache = lstm_step(x[:, t], h, c, *weights)
        else:
            h, cache = (gru_step if cell == "gru" else rnn_step)(x[:, t], h, *weights)
        out[:, t] = h
        caches.append(cache)
    return out, caches


def backward_over_time(
    p: dict[str, Array], dout: Array, caches: list[Any], cell: str, suffix: str = ""
) -> tuple[Array, Array, dict[str, Array]]:
    """Return dx (N, T, W), dh0 (N, H) and the gradients of a layer's Wx, Wh, b."""
    n, steps, _ = dout.shape
    wx, wh, b = (p[f"{name}{suffix}"] for name in ("Wx", "Wh", "b"))
    dx = np.zeros((n, steps, wx.shape[0]), dtype=dout.dtype)
    sums = [np.zeros_like(array) for array in (wx, wh, b)]
    dh = np.zeros_like(dout[:, 0])
    dc = np.zeros_like(dh)
    for t in reversed(range(steps)):
        if cell == "lstm":
            dx[:, t], dh, dc, *weights = lstm_step_back(dout[:, t] + dh, dc, wx, wh, caches[t])
        else:
            back = gru_step_back if cell == "gru" else rnn_step_back
            dx[:, t], dh, *weights = back(dout[:, t] + dh, wx, wh, caches[t])
        for total, array in zip(sums, weights, strict=True):
            total += array
    return dx, dh, dict(zip((f"Wx{suffix}", f"Wh{suffix}", f"b{suffix}"), sums, strict=True))


def softmax_loss(scores: Array, targets: NDArray[np.int64]) -> tuple[Array, Array]:
    """Return the masked cross-entropy of (N, T, V) scores, summed and divided by N, and its gradient."""
    n, steps, vocabulary = scores.shape
    flat, flat_targets = scores.reshape(n * steps, vocabulary), targets.reshape(n * steps)
    mask = flat_targets != NULL
    probs = np.exp(flat - flat.max(axis=1, keepdims=True))
    probs /= probs.sum(axis=1, keepdims=True)
    rows = np.arange(n * steps)
    loss = -np.sum(mask * np.log(probs[rows, flat_targets])) / n
    probs[rows, flat_targets] -= 1
    probs /= n
    probs *= mask[:, None]
    return loss, probs.reshape(n, steps, vocabulary)


def loss_and_grads(
    p: dict[str, Array], features: Array, captions: NDArray[np.int64], cell: str
) -> tuple[Array, dict[str, Array]]:
    """Return the captioning loss and the gradients of all parameters."""
    inputs, targets = captions[:, :-1], captions[:, 1:]
    h0 = features @ p["W_proj"] + p["b_proj"]
    x = p["W_embed"][inputs]
    kind, hidden, runs = split_cell(cell)[0], x, []
    for suffix in suffixes(cell):
        hidden, caches = forward_over_time(p, hidden, h0, kind, suffix)
        runs.append((suffix, caches))
    n, steps, width = hidden.shape
    rows = hidden.reshape(n * steps, width)
    scores = (rows @ p["W_vocab"] + p["b_vocab"]).reshape(n, steps, -1)
    loss, dscores = softmax_loss(scores, targets)
    drows = dscores.reshape(n * steps, -1)
    grads = {"W_vocab": rows.T @ drows, "b_vocab": drows.sum(axis=0)}
    dhidden = (drows @ p["W_vocab"].T).reshape(n, steps, width)
    dx, dh0 = dhidden, np.zeros_like(h0)
    for suffix, caches in reversed(runs):
        dx, dh0_of_layer, recurrent = backward_over_time(p, dx, caches, kind, suffix)
        dh0 += dh0_of_layer
        grads |= recurrent
    dembed = np.zeros_like(p["W_embed"])
    np.add.at(dembed, inputs, dx)
    grads |= {"W_embed": dembed, "W_proj": features.T @ dh0, "b_proj": dh0.sum(axis=0)}
    return loss, grads


def sample(p: dict[str, Array], features: Array, cell: str, length: int) -> NDArray[np.int64]:
    """Decode (N, length) words greedily, past END."""
    h: Array = features @ p["W_proj"] + p["b_proj"]
    c: Array = np.zeros_like(h)
    captions = np.zeros((features.shape[0], length), dtype=np.int64)
    word = np.full(features.shape[0], START)
    for t in range(length):
        if cell == "lstm":
            h, c, _ = lstm_step(p["W_embed"][word], h, c, p["Wx"], p["Wh"], p["b"])
        else:
            h, _ = rnn_step(p["W_embed"][word], h, p["Wx"], p["Wh"], p["b"])
        word = (h @ p["W_vocab"] + p["b_vocab"]).argmax(axis=1)
        captions[:, t] = word
    return captions


class ExerciseTask:
    """The exercise's code on one workload; mode is the dtype."""

    def __init__(self, mode: str, work: Workload, job: str) -> None:
        self.work, self.job, self.rate = work, job, 1e-3
        dtype = np.dtype(mode)
        self.params: dict[str, Array] = {name: array.astype(dtype) for name, array in work.params.items()}
        self.features: Array = work.features.astype(dtype)
        if job.startswith("sample"):
            if work.cell not in CELLS:
                raise ValueError(f"{work.cell}: expected one of {', '.join(CELLS)} for decoding")
            self.features = work.sample_features[: sample_count(job)].astype(dtype)
        self.moments = {name: (np.zeros_like(a), np.zeros_like(a)) for name, a in self.params.items()}
        self.steps = 0
        self.out: dict[str, Any] = {}

    def build(self) -> None:
        """Do nothing: there is nothing to compile."""

    def release(self) -> None:
        """Drop the last step's result."""
        self.out = {}

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate."""
        self.rate = rate

    def step(self) -> None:
        """Do the job once."""
        if self.job.startswith("sample"):
            self.out = {"words": sample(self.params, self.features, self.work.cell, SAMPLE_LENGTH)}
            return
        loss, grads = loss_and_grads(self.params, self.features, self.work.captions, self.work.cell)
        self.out = {"loss": loss, **grads}
        if self.job == "adam":
            self._adam(grads)
            self.out = dict(self.params)

    def _adam(self, grads: dict[str, Array]) -> None:
        self.steps += 1
        for name, grad in grads.items():
            m, v = self.moments[name]
            m = ADAM_BETA1 * m + (1 - ADAM_BETA1) * grad
            v = ADAM_BETA2 * v + (1 - ADAM_BETA2) * grad * grad
            self.moments[name] = m, v
            m_hat = m / (1 - ADAM_BETA1**self.steps)
            v_hat = v / (1 - ADAM_BETA2**self.steps)
            self.params[name] = self.params[name] - self.rate * m_hat / (np.sqrt(v_hat) + ADAM_EPS)

    def result(self) -> dict[str, np.ndarray]:
        """Return the last step's result."""
        return {name: np.asarray(array) for name, array in self.out.items()}


def make_task(mode: str, work: Workload, job: str) -> ExerciseTask:
    """Return the exercise's task in dtype `mode`."""
    return ExerciseTask(mode, work, job)
