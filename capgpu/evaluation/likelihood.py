"""Likelihood of held-out captions under a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import closing
from typing import Any, overload

import numpy as np

from capgpu.backend import asarray
from capgpu.data.batches import evaluation_batches
from capgpu.distributed import Communicator
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
    model: Any,
    data: Mapping[str, Any],
    split: str,
    batch_size: int,
    stop: Callable[[], bool],
    ranks: Communicator | None = None,
) -> float | None: ...


def loss_per_token(
    model: Any,
    data: Mapping[str, Any],
    split: str = "val",
    batch_size: int = 100,
    stop: Callable[[], bool] | None = None,
    ranks: Communicator | None = None,
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
    ranks : Communicator, optional
        Divide the minibatches among the ranks, which all call this; the result has the same bits for any number of
        them, and is None if `stop` says True on one of them.

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
    tokens, stopped = 0, False
    ranks = Communicator() if ranks is None else ranks
    with closing(evaluation_batches(data, batch_size, split, (ranks.rank, ranks.size))) as batches:
        for captions, features, _ in batches:
            if stop is not None and stop():
                stopped = True
                break
            if hasattr(model, "nll"):
                total, counted = model.nll(asarray(features), captions)
            else:
                loss, _ = model.loss(asarray(features), captions)
                total, counted = loss * captions.shape[0], (captions[:, 1:] != null).sum()
            totals.append(total)
            tokens += int(counted)
    number = -(-data[f"{split}_captions"].shape[0] // batch_size)
    counts, losses = np.array([stopped, tokens]), np.zeros(number)
    values = to_floats(totals)
    losses[ranks.rank :: ranks.size][: len(values)] = values
    # each sum has one term that is not zero: that is exact
    ranks.all_reduce(counts, losses)
    if counts[0]:
        return None
    if counts[1] == 0:
        raise InvalidValueError(f"{split}_captions: expected words to score, got <NULL> only after the first column.")
    return float(sum(losses.tolist())) / int(counts[1])
