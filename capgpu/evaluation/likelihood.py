"""Likelihood of held-out captions under a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, overload

from capgpu.backend import asarray
from capgpu.data.batches import evaluation_batches
from capgpu.errors import InvalidValueError
from capgpu.training.losses import to_floats
from capgpu.vocabulary import NULL

__all__ = ["loss_per_token"]


@overload
def loss_per_token(
    model: Any, data: Mapping[str, Any], split: str = "val", batch_size: int = 100, stop: None = None
) -> float: ...


@overload
def loss_per_token(
    model: Any, data: Mapping[str, Any], split: str, batch_size: int, stop: Callable[[], bool]
) -> float | None: ...


def loss_per_token(
    model: Any,
    data: Mapping[str, Any],
    split: str = "val",
    batch_size: int = 100,
    stop: Callable[[], bool] | None = None,
) -> float | None:
    """Compute the negative log-likelihood of a split's words, per word, without dropout.

    Parameters
    ----------
    model : CaptioningRNN
        Or any object with ``nll(features, captions) -> (total, tokens)``, or at least
        ``loss(features, captions) -> (loss, grads)`` whose loss is the total divided by the captions.
    data : dict
        The course's data dictionary.
    split : str
        The split; all of it counts.
    batch_size : int
        Captions scored at a time.
    stop : callable, optional
        Asked before each minibatch; where it says True, the result is None.

    Returns
    -------
    float or None
        Nats per word.

    Raises
    ------
    ValueError
        If the data lack the split, or its captions have no words.
    """
    null = getattr(model, "word_to_idx", {}).get(NULL, 0)
    totals: list[Any] = []
    tokens = 0
    with closing(evaluation_batches(data, batch_size, split)) as batches:
        for captions, features, _ in batches:
            if stop is not None and stop():
                return None
            if hasattr(model, "nll"):
                total, counted = model.nll(asarray(features), captions)
            else:
                loss, _ = model.loss(asarray(features), captions)
                total, counted = loss * captions.shape[0], (captions[:, 1:] != null).sum()
            totals.append(total)
            tokens += int(counted)
    if tokens == 0:
        raise InvalidValueError(f"{split}_captions holds no words to score: every step after the first is <NULL>.")
    return sum(to_floats(totals)) / tokens
