"""Training steps of several ranks: each computes its captions of the same minibatch, and the gradients are added up.

Each large gradient is added by itself, beginning as soon as it has been computed, beside the rest of the backward pass:
that of W_vocab, the largest, is ready first. Of W_embed, whose gradient is zero except for the words of the minibatch,
only their rows are added where they are clearly fewer; all ranks know the captions of the whole minibatch. Small
gradients and the loss share one sum, the last.

Sums start in an order that follows from the shapes of the parameters alone, whatever a rank computes: one without
captions adds zeros.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np

from capgpu.backend import Array, array_namespace, is_host_array
from capgpu.data.batches import rank_rows
from capgpu.distributed import Communicator, Reduction
from capgpu.dtypes import widened
from capgpu.errors import InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.parameters import layer_names
from capgpu.random import fold_key
from capgpu.sequence import caption_lengths
from capgpu.training.agreement import PATIENT_STEPS
from capgpu.training.steps import TrainingSteps

__all__ = ["DistributedSteps", "GradientSums"]

#: Gradients below this many elements share a sum: it takes less time to copy them than to start another.
_SMALL = 1 << 15
#: Rows of W_embed are added alone if they are at most this part of all.
_SPARSE = 0.75


class GradientSums:
    """The sums over the ranks of one step's gradients; a `capgpu.captioner.GradientSink`.

    Parameters
    ----------
    ranks : Communicator
        The ranks.
    params : mapping of str to array
        The parameters that are trained.
    words : numpy.ndarray of int, shape (U,), optional
        Rows of W_embed whose gradients may differ from zero on any rank, rising.
    patient : bool
        As for `Communicator.start_all_reduce`.
    """

    def __init__(self, ranks: Communicator, params: Mapping[str, Array], words: Any, patient: bool) -> None:
        self._ranks, self._params, self._patient = ranks, params, patient
        large = [name for name, array in params.items() if array.size >= _SMALL]
        order = [name for name in _order_of_gradients(params) if name in large]
        self._waiting = deque([*order, *(name for name in large if name not in order)])
        self._small = [name for name in params if name not in large]
        self._sparse = "W_embed" in large and words is not None and words.size <= _SPARSE * params["W_embed"].shape[0]
        self._words = words
        self._given: dict[str, Array] = {}
        self._reductions: list[Reduction] = []

    def ready(self, name: str, gradient: Array) -> None:
        """Take a gradient, and start its sum once those before it have started."""
        if name not in self._params:
            return  # it is not trained
        self._given[name] = _own(gradient)
        while self._waiting and self._waiting[0] in self._given:
            self._reductions.append(self._start(self._given[self._waiting.popleft()]))

    def ready_rows(self, name: str, rows: Array, index: Array) -> None:
        """Take the gradient of a table of which only some rows are not zero."""
        if name not in self._params:
            return
        count = self._params[name].shape[0]
        if self._sparse:
            xp = array_namespace(index)
            words = xp.astype(self._on_device_of(index), index.dtype, copy=False)
            index, count = xp.searchsorted(words, index), self._words.size
        self.ready(name, kernels_for(rows).scatter_rows(rows, index, count))

    def finish(self, loss: Array, grads: Mapping[str, Array]) -> tuple[Array, dict[str, Array]]:
        """Wait for all sums.

        Parameters
        ----------
        loss : array, shape ()
            This rank's part of the loss.
        grads : mapping of str to array
            The gradients that have not been given to `ready`; others may be in it.

        Returns
        -------
        loss : array, shape ()
            That of the minibatch.
        grads : dict of str to array
            Gradient with respect to each parameter.
        """
        for name in [*self._waiting, *self._small]:
            if name in self._given:
                continue
            if name == "W_embed" and self._sparse:
                words = self._on_device_of(grads[name])
                self.ready_rows(name, kernels_for(grads[name]).take_rows(grads[name], words), words)
            else:
                self.ready(name, grads[name])
        first = next(iter(self._params.values()))
        xp = array_namespace(first)
        # NumPy makes scalars of arrays without dimensions
        loss = xp.reshape(widened(xp.asarray(loss, device=first.device)), (1,))
        last = xp.concat([*(xp.reshape(widened(self._given[name]), (-1,)) for name in self._small), loss])
        self._reductions.append(self._start(last))
        for reduction in self._reductions:
            reduction.wait()
        sums, start = dict(self._given), 0
        for name in self._small:
            like = self._params[name]
            sums[name] = xp.astype(xp.reshape(last[start : start + like.size], like.shape), like.dtype, copy=False)
            start += like.size
        if self._sparse:
            table = self._params["W_embed"]
            words = self._on_device_of(table)
            sums["W_embed"] = kernels_for(table).scatter_rows(sums["W_embed"], words, table.shape[0])
        return xp.reshape(last[-1:], ()), sums

    def finish_without_captions(self) -> tuple[Array, dict[str, Array]]:
        """Add zeros to all sums, and wait for them; see `finish`."""
        zeros = {name: array_namespace(array).zeros_like(array) for name, array in self._params.items()}
        array = next(iter(self._params.values()))
        loss = array_namespace(array).zeros((), dtype=array.dtype, device=array.device)
        return self.finish(loss, zeros)

    def _on_device_of(self, array: Array) -> Array:
        """Return the words that occur in the library and on the device of an array."""
        return array_namespace(array).asarray(self._words, device=array.device)

    def _start(self, array: Array) -> Reduction:
        return self._ranks.start_all_reduce(array, patient=self._patient)


def _order_of_gradients(params: Mapping[str, Array]) -> list[str]:
    """Return the names of a captioner's large parameters in the order in which it computes their gradients."""
    layers = itertools.takewhile(lambda names: names[0] in params, map(layer_names, itertools.count()))
    # biases are known at the end of the pass
    return ["W_vocab", *(name for Wx, Wh, _ in reversed([*layers]) for name in (Wh, Wx)), "W_embed"]


def _own(gradient: Array) -> Array:
    """Return a gradient in memory that can be written into without gaps."""
    if is_host_array(gradient):
        flags = gradient.flags
        return gradient if flags.forc and flags.writeable else gradient.copy()
    xp = array_namespace(gradient)
    return xp.asarray(gradient, copy=None)


class DistributedSteps(TrainingSteps):
    """Training steps of one rank.

    Parameters
    ----------
    model, optimizer, clip_norm
        As for `TrainingSteps`.
    ranks : Communicator
        The ranks.
    micro_batch_size : int, optional
        Captions that a rank computes at a time.
    captions_per_picture : int
        Captions in a row that one rank computes; see `capgpu.data.batches.rank_rows`.

    Notes
    -----
    Models other than `capgpu.model.CaptioningRNN` compute the loss of their rank's captions, which is weighted by their
    number; all their gradients are added after the backward pass.
    """

    def __init__(
        self,
        model: Any,
        optimizer: Optimizer,
        clip_norm: float | None,
        ranks: Communicator,
        micro_batch_size: int | None = None,
        captions_per_picture: int = 1,
    ) -> None:
        super().__init__(model, optimizer, clip_norm)
        self._ranks, self._micro_batch_size = ranks, micro_batch_size
        self._captions_per_picture = captions_per_picture
        self._null = int(getattr(model, "null", 0))
        self._steps = 0
        self._own_loss: Any = 0.0

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
        """Compute the loss of a minibatch over all ranks, and keep its gradients for `update`.

        Parameters
        ----------
        features : array, shape (n, D)
            Those of this rank's captions, see `capgpu.data.batches.rank_rows`.
        captions : numpy.ndarray of int, shape (N, T + 1)
            Those of the whole minibatch.
        learning_rate_scale, whole, dropout_key, weights
            As for `TrainingSteps.loss`; the weights are those of the whole minibatch.

        Returns
        -------
        array, shape ()
            The loss of the minibatch, the same on every rank.
        """
        lengths = caption_lengths(captions, self._null)
        if not lengths.any():
            raise InvalidValueError("captions: expected at least one word after the first column, got padding only.")
        if not self._announced:
            self._announced = True
            self._announce()
        trained = {name: array for name, array in self._model.params.items() if name not in self._optimizer.frozen}
        in_parts = getattr(type(self._model), "loss", None) is CaptioningRNN.loss
        words = None
        if in_parts and "W_vocab" in self._model.params:
            words = np.unique(captions[:, :-1][np.arange(captions.shape[1] - 1) < lengths[:, None]])
        sums = GradientSums(self._ranks, trained, words, self._steps < PATIENT_STEPS)
        self._steps += 1
        rows = rank_rows(captions.shape[0], self._ranks.rank, self._ranks.size, self._captions_per_picture)
        self._own_loss = 0.0
        if not lengths[rows].any():
            loss, self._grads = sums.finish_without_captions()
            return loss
        given = {"dropout_key": dropout_key, "weights": None if weights is None else weights[rows]}
        given = {name: value for name, value in given.items() if value is not None}
        if not in_parts:
            own_loss, grads = self._weighted_loss(features, captions, rows, given)
        elif self._micro_batch_size is None:
            own_loss, grads = self._model.partial_loss(features, captions, rows, **given, sink=sums)
        else:
            own_loss, grads = self._accumulated_loss(features, captions, rows, given)
        self._own_loss = own_loss
        loss, self._grads = sums.finish(own_loss, grads)
        return loss

    def ranks_without_a_finite_loss(self) -> list[int]:
        """Return the ranks whose own part of the last loss is NaN or infinite; all ranks call this."""
        finite = self._ranks.gather(math.isfinite(float(self._own_loss)))
        return [rank for rank, is_finite in enumerate(finite) if not is_finite]

    def _accumulated_loss(
        self, features: Array, captions: Any, rows: Any, given: Mapping[str, Any]
    ) -> tuple[Array, dict[str, Array]]:
        """Compute a few of this rank's captions at a time."""
        losses: list[Array] = []
        totals: dict[str, Array] = {}
        dtypes: dict[str, Any] = {}
        assert self._micro_batch_size is not None
        for start in range(0, rows.size, self._micro_batch_size):
            some = slice(start, start + self._micro_batch_size)
            if not caption_lengths(captions[rows[some]], self._null).any():
                continue  # without words there is neither loss nor gradient
            part = {name: value[some] if name == "weights" else value for name, value in given.items()}
            loss, grads = self._model.partial_loss(features[some], captions, rows[some], **part)
            losses.append(loss)
            parts = {name: widened(gradient) for name, gradient in grads.items()}
            totals = {name: totals[name] + part if totals else part for name, part in parts.items()}
            dtypes = {name: gradient.dtype for name, gradient in grads.items()}
        grads = {name: array_namespace(a).astype(a, dtypes[name], copy=False) for name, a in totals.items()}
        return sum(losses[1:], losses[0]), grads

    def _weighted_loss(
        self, features: Array, captions: Any, rows: Any, given: Mapping[str, Any]
    ) -> tuple[Array, dict[str, Array]]:
        """Compute the loss of this rank's captions, as if they were a minibatch, times their part of the minibatch."""
        if "dropout_key" in given:  # the same masks on all ranks would drop the same units of all captions
            given = {**given, "dropout_key": fold_key(given["dropout_key"], self._ranks.rank)}
        loss, grads = self._model.loss(features, captions[rows], **given)
        weight = rows.size / captions.shape[0]
        array = next(iter(grads.values()))
        xp = array_namespace(array)
        return xp.asarray(loss, device=array.device) * weight, {name: grads[name] * weight for name in grads}
