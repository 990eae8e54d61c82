"""Training steps from CUDA graphs, unless the user forbids them: a model and optimizer around the kernels' graphs."""

from __future__ import annotations

import functools
import logging
import os
from collections.abc import Callable, Sequence
from typing import Any

from capgpu.backend import Array, is_host_array
from capgpu.captioner import captioner_gradients
from capgpu.distributed import Communicator
from capgpu.errors import InvalidValueError
from capgpu.kernels import kernels_for
from capgpu.model import CaptioningRNN
from capgpu.optim import Optimizer
from capgpu.optim.rules import RULES, complete_configs
from capgpu.training.accumulation import AccumulatedSteps
from capgpu.training.distributed import DistributedSteps
from capgpu.training.steps import TrainingSteps

__all__ = ["GraphedSteps", "graphs_wanted", "training_steps"]

logger = logging.getLogger("capgpu")


def graphs_wanted() -> bool:
    """Return whether ``CAPGPU_CUDA_GRAPHS`` allows training steps from CUDA graphs.

    Returns
    -------
    bool
        True where it is unset, empty or ``1``; False for ``0``.

    Raises
    ------
    ValueError
        For any other value.
    """
    setting = os.environ.get("CAPGPU_CUDA_GRAPHS", "1") or "1"
    if setting not in ("0", "1"):
        raise InvalidValueError(
            f"CAPGPU_CUDA_GRAPHS: expected 1 or 0, got {setting!r}. Set it to one of these, or unset it."
        )
    return setting == "1"


def training_steps(
    model: Any,
    optimizer: Optimizer,
    clip_norm: float | None,
    micro_batch_size: int | None = None,
    ranks: Communicator | None = None,
    captions_per_picture: int = 1,
) -> TrainingSteps:
    """Return training steps: from CUDA graphs where they serve the model, unless ``CAPGPU_CUDA_GRAPHS=0``.

    Parameters
    ----------
    model, optimizer, clip_norm
        As for `TrainingSteps`.
    micro_batch_size : int, optional
        Captions computed at a time, see `AccumulatedSteps`; such steps are not made from graphs.
    ranks : Communicator, optional
        The ranks that compute each minibatch together, see `DistributedSteps`; not from graphs either.
    captions_per_picture : int
        As for `DistributedSteps`.

    Returns
    -------
    TrainingSteps
        `GraphedSteps` for a `CaptioningRNN` on a CUDA device and a rule that has a kernel. Otherwise plain ones; on a
        device, the reason is logged at INFO.

    Raises
    ------
    ValueError
        For an unknown value of ``CAPGPU_CUDA_GRAPHS``.
    """
    if ranks is not None and ranks.size > 1:
        return DistributedSteps(model, optimizer, clip_norm, ranks, micro_batch_size, captions_per_picture)
    if micro_batch_size is not None:
        return AccumulatedSteps(model, optimizer, clip_norm, micro_batch_size)
    if not graphs_wanted() or all(is_host_array(array) for array in model.params.values()):
        return TrainingSteps(model, optimizer, clip_norm)
    if type(model) is not CaptioningRNN:
        reason = f"the model is a {type(model).__name__}, not a CaptioningRNN"
    elif model.n_layers > 1:
        reason = "the model has several layers"
    elif optimizer.frozen:
        reason = "some parameters are frozen"
    elif not RULES[optimizer.rule].kernel:
        reason = f"the update rule {optimizer.rule!r} has no kernel of its own"
    elif (name := kernels_for(model.params["Wh"]).name) != "cuda":
        reason = f"the parameters are served by the {name} kernels"
    else:
        return GraphedSteps(model, optimizer, clip_norm)
    logger.info("no CUDA graphs: %s", reason)
    return TrainingSteps(model, optimizer, clip_norm)


class GraphedSteps(TrainingSteps):
    """Training steps whose launches are made as CUDA graphs; see `capgpu.kernels.cuda.graphs`.

    Parameters, and the optimizer's running state, are moved to memory of the graphs at the first step and updated in
    place from then on. Entries of ``model.params`` that are replaced are copied there before the next step. A step that
    cannot be made as a graph is a plain one, as is one of a model that has been moved to the host.

    Parameters
    ----------
    model, optimizer, clip_norm
        As for `training_steps`, which checks them.
    """

    def __init__(self, model: CaptioningRNN, optimizer: Optimizer, clip_norm: float | None) -> None:
        super().__init__(model, optimizer, clip_norm)
        self._rule = RULES[optimizer.rule]
        self._names = model.parameter_names
        self._graphs: Any = None
        self._to_update: Callable[[float], None] = super().update

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
        """Compute the loss of a minibatch; see `TrainingSteps.loss`. Weighted steps are plain ones.

        The two halves have the bits of the whole. The update is made at once where it may be.
        """
        checked, ids, options = self._model.loss_inputs(features, captions, dropout_key)
        batch = checked, ids, self._model.null, options
        loss: Array | None
        if is_host_array(checked) or weights is not None:
            loss = None
        elif whole:
            self._move()
            loss = self._graphs.step(*batch, self._settings(learning_rate_scale))
            self._to_update = self._count
        else:
            self._move()
            loss = self._graphs.gradients(*batch)
            self._to_update = self._update_from_graphs
        if loss is None:
            self._to_update = super().update
            loss = super().loss(features, captions, learning_rate_scale, dropout_key=dropout_key, weights=weights)
        return loss

    def update(self, learning_rate_scale: float) -> None:
        """Run the remaining part of the step."""
        self._to_update(learning_rate_scale)

    def _update_from_graphs(self, learning_rate_scale: float) -> None:
        self._graphs.update(self._settings(learning_rate_scale))
        self._count(learning_rate_scale)

    def _count(self, learning_rate_scale: float) -> None:
        if self._rule.counter:
            for config in self._configs():
                config["t"] += 1

    def _move(self) -> None:
        """Copy parameters and running state to the memory of the graphs."""
        from capgpu.kernels.cuda.graphs import StepGraphs

        entries = self._model.params
        params = {name: entries[name] for name in self._names}
        configs = self._configs()
        complete_configs(self._optimizer.rule, list(params.values()), configs)
        if self._graphs is None:
            states = [[config[slot] for config in configs] for slot in self._rule.slots]
            compute = functools.partial(captioner_gradients, self._model.cell)
            self._graphs = StepGraphs(compute, params, self._rule.kernel, states, self._clip_norm)
        places: list[tuple[Any, str, Array]] = [(entries, name, own) for name, own in self._graphs.params.items()]
        for slot, state in zip(self._rule.slots, self._graphs.states, strict=True):
            places += [(config, slot, own) for config, own in zip(configs, state, strict=True)]
        _take_over(places)

    def _configs(self) -> list[dict[str, Any]]:
        configs = self._optimizer.configs
        return [configs.setdefault(name, dict(self._optimizer.config)) for name in self._names]

    def _settings(self, learning_rate_scale: float) -> Any:
        configs = self._configs()
        rates = [float(config["learning_rate"]) * learning_rate_scale for config in configs]
        assert self._rule.settings is not None
        return self._rule.settings(configs, rates)


def _take_over(places: Sequence[tuple[Any, str, Array]]) -> None:
    """Replace entries of dictionaries by the graphs' own arrays, with the same values."""
    replaced = [
        (entries, key, graph_array, entries[key])
        for entries, key, graph_array in places
        if entries[key] is not graph_array
    ]
    if not replaced:
        return
    # entries may have been exchanged: none is overwritten before it has been read
    graph_array_ids = {id(graph_array) for _, _, graph_array in places}
    values = [array.copy() if id(array) in graph_array_ids else array for *_, array in replaced]
    for (entries, key, graph_array, _), value in zip(replaced, values, strict=True):
        graph_array[...] = value
        entries[key] = graph_array
