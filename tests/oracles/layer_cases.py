"""The layers as data: how to make arguments for each and call both passes, and the plain loops' results."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from capgpu import layers
from oracles import layers as plain


class Sizes(NamedTuple):
    """Extents: batch N, steps T, input D, hidden H (also the width M of an affine map), vocabulary V."""

    N: int
    T: int
    D: int
    H: int
    V: int


#: Extents that no block size divides, and the degenerate ones.
ODD_SIZES = (Sizes(1, 1, 1, 1, 1), Sizes(3, 7, 1, 33, 3), Sizes(7, 3, 33, 1, 33), Sizes(33, 1, 3, 7, 7))


@dataclass(frozen=True)
class LayerCase:
    """One layer.

    Attributes
    ----------
    name : str
        For the test's name.
    shapes : callable
        Sizes -> shape of each floating argument, in the order of the gradients that `backward` returns.
    forward : callable
        All arguments by name -> (tuple of outputs, cache).
    backward : callable
        (tuple of upstream gradients, cache) -> tuple of gradients.
    plain : callable
        All arguments by name -> output or tuple of outputs, by the loops.
    whole : callable, optional
        (random, Sizes) -> arguments that are not floating.
    """

    name: str
    shapes: Callable[[Sizes], dict[str, tuple[int, ...]]]
    forward: Callable[..., tuple[tuple[Any, ...], Any]]
    backward: Callable[[tuple[Any, ...], Any], tuple[Any, ...]]
    plain: Callable[..., Any]
    whole: Callable[[np.random.Generator, Sizes], dict[str, Any]] = lambda random, sizes: {}

    def arguments(self, random: np.random.Generator, sizes: Sizes, dtype: str = "float64") -> dict[str, Any]:
        """Draw host arguments, rounded to `dtype`: every dtype starts from the same numbers."""
        floats = {name: random.uniform(-1, 1, shape).astype(dtype) for name, shape in self.shapes(sizes).items()}
        return {**floats, **self.whole(random, sizes)}

    def floats(self, arguments: dict[str, Any]) -> tuple[str, ...]:
        """Return the names of the arguments that have a gradient."""
        return tuple(name for name, value in arguments.items() if value.dtype.kind not in "biu")


def _layer(forward: Callable[..., Any], backward: Callable[..., Any]) -> dict[str, Callable[..., Any]]:
    def run(**arguments: Any) -> tuple[tuple[Any, ...], Any]:
        *outputs, cache = forward(**arguments)
        return tuple(outputs), cache

    def run_back(upstream: tuple[Any, ...], cache: Any) -> tuple[Any, ...]:
        gradients = backward(*upstream, cache)
        return gradients if isinstance(gradients, tuple) else (gradients,)

    return {"forward": run, "backward": run_back}


def _loss(**arguments: Any) -> tuple[tuple[Any, ...], Any]:
    loss, dx = layers.temporal_softmax_loss(**arguments)
    return (loss,), dx


def _loss_backward(upstream: tuple[Any, ...], cache: Any) -> tuple[Any, ...]:
    return (cache * upstream[0],)


def _recurrent(s: Sizes, gates: int, further_biases: int = 0) -> dict[str, tuple[int, ...]]:
    return {"Wx": (s.D, gates * s.H), "Wh": (s.H, gates * s.H), "b": ((gates + further_biases) * s.H,)}


def _attentive(s: Sizes) -> dict[str, tuple[int, ...]]:
    return {"Wx": (s.D, 4 * s.H), "Wh": (s.H, 4 * s.H), "Wattn": (s.H, 4 * s.H), "b": (4 * s.H,)}


def _attend(prev_h: Any, A: Any) -> tuple[tuple[Any, ...], Any]:
    attn, weights = layers.dot_product_attention(prev_h, A)
    return (attn,), (prev_h, A, weights)


def _attend_backward(upstream: tuple[Any, ...], cache: Any) -> tuple[Any, ...]:
    return layers.dot_product_attention_backward(*upstream, *cache)


LAYERS = (
    LayerCase(
        "affine",
        lambda s: {"x": (s.N, s.T, s.D), "w": (s.T * s.D, s.H), "b": (s.H,)},
        **_layer(layers.affine_forward, layers.affine_backward),
        plain=plain.affine,
    ),
    LayerCase(
        "temporal_affine",
        lambda s: {"x": (s.N, s.T, s.D), "w": (s.D, s.H), "b": (s.H,)},
        **_layer(layers.temporal_affine_forward, layers.temporal_affine_backward),
        plain=plain.temporal_affine,
    ),
    LayerCase(
        "word_embedding",
        lambda s: {"W": (s.V, s.D)},
        **_layer(layers.word_embedding_forward, layers.word_embedding_backward),
        plain=plain.word_embedding,
        whole=lambda random, s: {"x": random.integers(0, s.V, (s.N, s.T))},
    ),
    LayerCase(
        "rnn_step",
        lambda s: {"x": (s.N, s.D), "prev_h": (s.N, s.H), **_recurrent(s, 1)},
        **_layer(layers.rnn_step_forward, layers.rnn_step_backward),
        plain=plain.rnn_step,
    ),
    LayerCase(
        "rnn",
        lambda s: {"x": (s.N, s.T, s.D), "h0": (s.N, s.H), **_recurrent(s, 1)},
        **_layer(layers.rnn_forward, layers.rnn_backward),
        plain=plain.rnn,
    ),
    LayerCase(
        "lstm_step",
        lambda s: {"x": (s.N, s.D), "prev_h": (s.N, s.H), "prev_c": (s.N, s.H), **_recurrent(s, 4)},
        **_layer(layers.lstm_step_forward, layers.lstm_step_backward),
        plain=plain.lstm_step,
    ),
    LayerCase(
        "lstm",
        lambda s: {"x": (s.N, s.T, s.D), "h0": (s.N, s.H), **_recurrent(s, 4)},
        **_layer(layers.lstm_forward, layers.lstm_backward),
        plain=plain.lstm,
    ),
    LayerCase(
        "gru_step",
        lambda s: {"x": (s.N, s.D), "prev_h": (s.N, s.H), **_recurrent(s, 3, 1)},
        **_layer(layers.gru_step_forward, layers.gru_step_backward),
        plain=plain.gru_step,
    ),
    LayerCase(
        "gru",
        lambda s: {"x": (s.N, s.T, s.D), "h0": (s.N, s.H), **_recurrent(s, 3, 1)},
        **_layer(layers.gru_forward, layers.gru_backward),
        plain=plain.gru,
    ),
    LayerCase(
        "dot_product_attention",
        lambda s: {"prev_h": (s.N, s.H), "A": (s.N, s.H, s.T, s.D)},
        _attend,
        _attend_backward,
        plain.dot_product_attention,
    ),
    LayerCase(
        "attention_step",
        lambda s: {"x": (s.N, s.D), "prev_h": (s.N, s.H), "prev_c": (s.N, s.H), "attn": (s.N, s.H), **_attentive(s)},
        **_layer(layers.attention_step_forward, layers.attention_step_backward),
        plain=plain.attention_step,
    ),
    LayerCase(
        "attention",
        lambda s: {"x": (s.N, s.T, s.D), "A": (s.N, s.H, 2, s.D), **_attentive(s)},
        **_layer(layers.attention_forward, layers.attention_backward),
        plain=plain.attention,
    ),
    LayerCase(
        "temporal_softmax_loss",
        lambda s: {"x": (s.N, s.T, s.V)},
        _loss,
        _loss_backward,
        plain.temporal_softmax_loss,
        lambda random, s: {
            "y": random.integers(0, s.V, (s.N, s.T)),
            "mask": random.uniform(size=(s.N, s.T)) < 0.7,
        },
    ),
)
