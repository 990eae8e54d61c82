"""Gradient accumulation: a minibatch computed in parts, so that it takes the memory of one of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capgpu.backend import Array, array_namespace
from capgpu.dtypes import widened
from capgpu.errors import InvalidValueError
from capgpu.optim import Optimizer
from capgpu.random import fold_key
from capgpu.training.steps import TrainingSteps

__all__ = ["AccumulatedSteps"]


class AccumulatedSteps(TrainingSteps):
    """Training steps whose minibatches are computed in parts of a few captions.

    The loss of a minibatch is the mean over its captions, so that loss and gradients are the sums of those of the
    parts, each weighted by its captions. Sums are rounded otherwise than those of the whole, and dropout draws other
    masks. A step is still made whole or not at all: nothing of it is in the state of a run.

    Parameters
    ----------
    model, optimizer, clip_norm
        As for `TrainingSteps`.
    micro_batch_size : int
        Captions computed at a time.
    """

    def __init__(self, model: Any, optimizer: Optimizer, clip_norm: float | None, micro_batch_size: int) -> None:
        super().__init__(model, optimizer, clip_norm)
        self._size = micro_batch_size
        self._null = int(getattr(model, "null", 0))

    def loss(
        self,
        features: Array,
        captions: Any,
        learning_rate_scale: float,
        *,
        whole: bool = False,
        dropout_key: int | None = None,
        weights: Any = None,
    ) -> Any:
        """Compute the loss of a minibatch; see `TrainingSteps.loss`."""
        count = captions.shape[0]
        losses: list[Any] = []
        totals: dict[str, Array] = {}
        for part, start in enumerate(range(0, count, self._size)):
            ids = captions[start : start + self._size]
            part_weights = None if weights is None else weights[start : start + self._size]
            if not (ids[:, 1:] != self._null).any():
                continue  # without words there is neither loss nor gradient
            key = None if dropout_key is None else fold_key(dropout_key, part)
            loss = super().loss(
                features[start : start + self._size], ids, learning_rate_scale, dropout_key=key, weights=part_weights
            )
            weight = ids.shape[0] / count
            losses.append(loss * weight)
            totals = _added(totals, self._grads, weight)
            dtypes = {name: gradient.dtype for name, gradient in self._grads.items()}
            self._grads = {}  # the next part takes their memory
        if not losses:
            raise InvalidValueError("captions: expected at least one word after the first column, got padding only.")
        self._grads = {name: array_namespace(a).astype(a, dtypes[name]) for name, a in totals.items()}
        return sum(losses[1:], losses[0])


def _added(totals: Mapping[str, Array], grads: Mapping[str, Array], weight: float) -> dict[str, Array]:
    """Add weighted gradients; sums of half types are float32."""
    parts = {name: widened(gradient) * weight for name, gradient in grads.items()}
    return {name: totals[name] + part if totals else part for name, part in parts.items()}
