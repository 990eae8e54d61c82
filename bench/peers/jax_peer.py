"""JAX on the CPU: one jitted function per job, `lax.scan` over time, buffers donated where they are replaced.

The input projection and the vocabulary projection stand outside the scan, as one large product each. Dropout draws its
masks from the "rbg" generator, the fastest of JAX's on a CPU.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from bench.workloads import (
    ADAM_BETA1,
    ADAM_BETA2,
    ADAM_EPS,
    CELLS,
    DROPOUT,
    NULL,
    SAMPLE_LENGTH,
    START,
    Workload,
    sample_count,
    split_job,
)

SMALL_HIDDEN = 64
Params = dict[str, jax.Array]


def versions() -> dict[str, str]:
    """Return what this competitor runs on."""
    return {"jax": jax.__version__, "jax_device": str(jax.devices()[0])}


def cell_step(a: jax.Array, h: jax.Array, c: jax.Array, lstm: bool) -> tuple[jax.Array, jax.Array]:
    """Return the next hidden and cell state from pre-activations (N, 4H) or (N, H)."""
    if not lstm:
        return jnp.tanh(a), c
    i, f, o, g = jnp.split(a, 4, axis=1)
    c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
    return jax.nn.sigmoid(o) * jnp.tanh(c), c


def dropped(x: jax.Array, key: jax.Array | None, use_index: int) -> jax.Array:
    """Return `x` with inverted dropout; as it is without a key. Each use has a number."""
    if key is None:
        return x
    keep_mask = jax.random.bernoulli(jax.random.fold_in(key, use_index), 1 - DROPOUT, x.shape)
    return jnp.where(keep_mask, x / (1 - DROPOUT), 0)


def caption_loss(
    p: Params, features: jax.Array, captions: jax.Array, lstm: bool, key: jax.Array | None = None
) -> jax.Array:
    """Compute the masked cross-entropy of (T+1, N) captions, summed and divided by N; a key turns dropout on."""
    h0 = dropped(features, key, 0) @ p["W_proj"] + p["b_proj"]
    projected = p["W_embed"][captions[:-1]] @ p["Wx"] + p["b"]

    def advance(state: tuple[jax.Array, jax.Array], x: jax.Array) -> Any:
        h, c = state
        h, c = cell_step(x + h @ p["Wh"], h, c, lstm)
        return (h, c), h

    # The loop's own cost shows at tiny sizes only; unrolling elsewhere made no difference or a small loss.
    unroll = projected.shape[0] if h0.shape[1] <= SMALL_HIDDEN else 1
    _, hidden = jax.lax.scan(advance, (h0, jnp.zeros_like(h0)), projected, unroll=unroll)
    logits = dropped(hidden, key, 1) @ p["W_vocab"] + p["b_vocab"]
    targets = captions[1:]
    target_logits = jnp.take_along_axis(logits, targets[..., None], axis=2)[..., 0]
    nll = jax.nn.logsumexp(logits, axis=2) - target_logits
    return jnp.sum(jnp.where(targets != NULL, nll, 0.0)) / features.shape[0]


def key_of_step(step: jax.Array) -> jax.Array:
    """Return the key of a step's masks."""
    return jax.random.fold_in(jax.random.key(0, impl="rbg"), step)


@partial(jax.jit, static_argnames=("lstm", "dropout"))
def loss_and_grads(
    p: Params, features: jax.Array, captions: jax.Array, step: jax.Array, lstm: bool, dropout: bool
) -> tuple[jax.Array, Params]:
    """Return the loss and the gradients of all parameters."""
    key = key_of_step(step) if dropout else None
    loss, grads = jax.value_and_grad(caption_loss)(p, features, captions, lstm, key)
    return loss, grads


@partial(jax.jit, static_argnames=("lstm", "dropout"), donate_argnums=(0, 1, 2))
def adam_step(
    p: Params,
    m: Params,
    v: Params,
    count: jax.Array,
    rate: jax.Array,
    features: jax.Array,
    captions: jax.Array,
    lstm: bool,
    dropout: bool,
) -> tuple[Params, Params, Params, jax.Array]:
    """Return parameters and moments after one step."""
    key = key_of_step(count.astype(jnp.int32)) if dropout else None
    grads = jax.grad(caption_loss)(p, features, captions, lstm, key)
    count = count + 1
    m = jax.tree.map(lambda old, g: ADAM_BETA1 * old + (1 - ADAM_BETA1) * g, m, grads)
    v = jax.tree.map(lambda old, g: ADAM_BETA2 * old + (1 - ADAM_BETA2) * g * g, v, grads)
    m_correction, v_correction = 1 - ADAM_BETA1**count, 1 - ADAM_BETA2**count
    p = jax.tree.map(lambda w, a, b: w - rate * (a / m_correction) / (jnp.sqrt(b / v_correction) + ADAM_EPS), p, m, v)
    return p, m, v, count


@partial(jax.jit, static_argnames="lstm")
def decode(p: Params, features: jax.Array, lstm: bool) -> jax.Array:
    """Return (N, 30) greedy words."""
    h0 = features @ p["W_proj"] + p["b_proj"]

    def advance(state: Any, _: None) -> Any:
        word, h, c = state
        h, c = cell_step(p["W_embed"][word] @ p["Wx"] + p["b"] + h @ p["Wh"], h, c, lstm)
        word = jnp.argmax(h @ p["W_vocab"] + p["b_vocab"], axis=1).astype(jnp.int32)
        return (word, h, c), word

    start = (jnp.full(h0.shape[0], START, dtype=jnp.int32), h0, jnp.zeros_like(h0))
    _, words = jax.lax.scan(advance, start, None, length=SAMPLE_LENGTH)
    return words.T


class JaxTask:
    """One job, compiled for its shapes."""

    def __init__(self, work: Workload, job: str) -> None:
        if work.cell not in CELLS:
            raise ValueError(f"{work.cell}: expected one of {', '.join(CELLS)}")
        job, self.dropout = split_job(job)
        self.steps = jnp.int32(0)
        self.job, self.lstm = job, work.cell == "lstm"
        self.params = {name: jnp.array(array) for name, array in work.params.items()}
        self.features = jnp.array(work.features)
        self.captions = jnp.array(work.captions.T.astype(np.int32))
        self.out: Any = None
        if job == "adam":
            self.m = jax.tree.map(jnp.zeros_like, self.params)
            self.v = jax.tree.map(jnp.zeros_like, self.params)
            self.count, self.rate = jnp.float32(0), jnp.float32(1e-3)
        elif job.startswith("sample"):
            self.features = jnp.array(work.sample_features[: sample_count(job)])
        self.compiled: Any = None

    def build(self) -> None:
        """Compile ahead of the first step."""
        if self.job == "loss":
            lowered = loss_and_grads.lower(
                self.params, self.features, self.captions, self.steps, self.lstm, self.dropout
            )
        elif self.job == "adam":
            lowered = adam_step.lower(
                self.params,
                self.m,
                self.v,
                self.count,
                self.rate,
                self.features,
                self.captions,
                self.lstm,
                self.dropout,
            )
        else:
            lowered = decode.lower(self.params, self.features, self.lstm)
        self.compiled = lowered.compile()

    def release(self) -> None:
        """Drop the last step's result."""
        self.out = None

    def set_rate(self, rate: float) -> None:
        """Set Adam's learning rate."""
        self.rate = jnp.float32(rate)

    def step(self) -> None:
        """Do the job once."""
        if self.compiled is None:
            self.build()
        if self.job == "loss":
            self.out = self.compiled(self.params, self.features, self.captions, self.steps)
            self.steps = self.steps + 1
        elif self.job == "adam":
            self.params, self.m, self.v, self.count = self.compiled(
                self.params, self.m, self.v, self.count, self.rate, self.features, self.captions
            )
            self.out = self.params
        else:
            self.out = self.compiled(self.params, self.features)
        jax.block_until_ready(self.out)

    def result(self) -> dict[str, np.ndarray]:
        """Return the last step's result."""
        if self.job == "loss":
            loss, grads = self.out
            return {"loss": np.asarray(loss), **{name: np.asarray(grad) for name, grad in grads.items()}}
        if self.job == "adam":
            return {name: np.asarray(array) for name, array in self.out.items()}
        return {"words": np.asarray(self.out)}


def make_task(mode: str, work: Workload, job: str) -> JaxTask:
    """Return the task; there is one mode."""
    return JaxTask(work, job)
