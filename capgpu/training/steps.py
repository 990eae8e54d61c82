"""A training step in two halves: the loss with its gradients, and the update that they make."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from capgpu.backend import Array
from capgpu.kernels import kernels_for
from capgpu.optim import Optimizer
from capgpu.optim.rules import find_rule

__all__ = ["TrainingSteps"]


class TrainingSteps:
    """Training steps by ``model.loss`` and ``optimizer.step``.

    Parameters
    ----------
    model : object
        With ``params`` and ``loss``, as `capgpu.solver.CaptioningSolver` takes it.
    optimizer : Optimizer
        The update rule.
    clip_norm : float, optional
        Largest joint norm of the gradients.
    """

    def __init__(self, model: Any, optimizer: Optimizer, clip_norm: float | None) -> None:
        self._model, self._optimizer, self._clip_norm = model, optimizer, clip_norm
        self._grads: Mapping[str, Array] = {}
        self._announced = False

    def _announce(self) -> None:
        """Announce to the kernels that updates follow."""
        params = list(self._model.params.values())
        kernel = find_rule(self._optimizer.rule).kernel
        clipping = () if self._clip_norm is None else ("gradient_norm",)
        operations = (*clipping, f"{kernel}_update") if kernel else clipping
        kernels_for(params[0]).announce(operations, params[0].dtype, parameters=len(params))

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
        """Compute the loss of a minibatch, and keep its gradients for `update`.

        Parameters
        ----------
        features, captions
            As for `capgpu.model.CaptioningRNN.loss`.
        learning_rate_scale : float
            The schedule's factor of the learning rate.
        whole : bool
            Whether the update may be made at once. False leaves the parameters as they are until `update` is called.
        dropout_key : int, optional
            As for `capgpu.model.CaptioningRNN.loss`; models without dropout get none.
        weights : numpy.ndarray of float, shape (N,), optional
            As for `capgpu.model.CaptioningRNN.loss`.

        Returns
        -------
        float or array, shape ()
            The loss before the update.
        """
        if not self._announced:
            self._announced = True
            self._announce()
        given = {"dropout_key": dropout_key, "weights": weights}
        options = {name: value for name, value in given.items() if value is not None}
        loss, self._grads = self._model.loss(features, captions, **options)
        return loss

    def ranks_without_a_finite_loss(self) -> list[int]:
        """Return the ranks whose own part of the last loss is NaN or infinite, where several compute together."""
        return []

    def update(self, learning_rate_scale: float) -> None:
        """Update the parameters, where `loss` has not done so."""
        # the next step's gradients take the memory of these
        grads, self._grads = self._grads, {}
        self._optimizer.step(self._model.params, grads, learning_rate_scale, self._clip_norm)
