"""Base of the solver: checked settings, history so far, and state on disk."""

from __future__ import annotations

import hashlib
import math
import os
import secrets
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from capgpu.backend import Array, is_host_array
from capgpu.checkpoint import CheckpointError
from capgpu.data.arrays import split_arrays, validate_data
from capgpu.data.batches import iterations_per_epoch
from capgpu.distributed import communicator
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.evaluation.likelihood import loss_per_token
from capgpu.kernels import kernels_for
from capgpu.optim import Optimizer
from capgpu.optim.schedules import Schedule, find_schedule, with_warmup
from capgpu.parameters import check_finite_parameters
from capgpu.training.agreement import check_same, load_shared_state
from capgpu.training.callbacks import (
    EarlyStopping,
    EpochCallback,
    Metric,
    StepCallback,
    check_score_name,
    metric_score,
)
from capgpu.training.graphs import training_steps
from capgpu.training.history import rewind_history
from capgpu.training.losses import LossRecord
from capgpu.training.self_critical import Critic, SelfCritical
from capgpu.training.state import REGULARIZATION, STATE_FILE, TrainingState, check_fits, save_state
from capgpu.validation import check_count, check_positive
from capgpu.visible_text import short
from capgpu.vocabulary import NULL

__all__ = ["VALIDATION_LIMIT", "SolverBase"]

# A whole validation set beside a handful of training captions would cost many times the training itself.
VALIDATION_LIMIT = 20


class SolverBase:
    """Settings, record and state of `capgpu.solver.CaptioningSolver`, which documents them.

    Parameters
    ----------
    model, data, update_rule, optim_config, lr_decay, batch_size, num_epochs, print_every, verbose
        As for `capgpu.solver.CaptioningSolver`.
    seed, schedule, warmup, clip_norm, group_by_length, validate, metric, keep_best, history, checkpoint, resume
        As for `capgpu.solver.CaptioningSolver`.
    callbacks, step_callbacks, micro_batch_size, param_config, frozen, self_critical, best_by
        As for `capgpu.solver.CaptioningSolver`.
    """

    def __init__(
        self,
        model: Any,
        data: Mapping[str, Any],
        update_rule: str = "sgd",
        optim_config: Mapping[str, Any] | None = None,
        lr_decay: float = 1.0,
        batch_size: int = 100,
        num_epochs: int = 10,
        print_every: int = 10,
        verbose: bool = True,
        *,
        seed: int | None = None,
        schedule: str | Schedule = "constant",
        warmup: int = 0,
        clip_norm: float | None = None,
        group_by_length: bool = False,
        validate: bool | None = None,
        metric: Metric | None = None,
        keep_best: bool = False,
        history: str | os.PathLike[str] | None = None,
        checkpoint: str | os.PathLike[str] | None = None,
        resume: bool = False,
        callbacks: Sequence[EpochCallback] = (),
        step_callbacks: Sequence[StepCallback] = (),
        micro_batch_size: int | None = None,
        param_config: Mapping[str, Mapping[str, float]] | None = None,
        frozen: Sequence[str] = (),
        self_critical: SelfCritical | None = None,
        best_by: str = "val_loss",
    ) -> None:
        if not hasattr(model, "params") or not callable(getattr(model, "loss", None)):
            raise InvalidTypeError(f"model: expected params and loss(features, captions), got {short(model)}.")
        check_count("batch_size", batch_size, 1)
        check_count("num_epochs", num_epochs, 1)
        check_count("print_every", print_every, 1)
        check_count("warmup", warmup, 0)
        check_count("seed", 0 if seed is None else seed, 0)
        check_count("micro_batch_size", batch_size if micro_batch_size is None else micro_batch_size, 1)
        # those of NumPy overflow, and JSON lacks them
        batch_size, num_epochs, print_every, warmup = map(int, (batch_size, num_epochs, print_every, warmup))
        check_positive("lr_decay", lr_decay)
        check_positive("clip_norm", 1.0 if clip_norm is None else clip_norm)
        for argument, given in (("callbacks", callbacks), ("step_callbacks", step_callbacks)):
            if not isinstance(given, Collection):
                raise InvalidTypeError(f"{argument}: expected a list of functions, got a {type(given).__name__}.")
        for function in (*(() if metric is None else (metric,)), *callbacks, *step_callbacks):
            if not callable(function) or isinstance(function, type):
                raise InvalidTypeError(f"metric, callbacks: expected functions, got {function!r}.")
        #: The processes that train this model together: one, unless a launcher has started several.
        self.ranks = communicator()
        self._check_parameters(model)
        if resume and checkpoint is None:
            raise InvalidValueError("checkpoint: expected the folder of the state to resume, got None.")
        self.model, self.update_rule, self.optim_config = model, update_rule, optim_config
        self.micro_batch_size, self.param_config, self.frozen = micro_batch_size, param_config, frozen
        self._schedule = with_warmup(schedule if callable(schedule) else find_schedule(schedule), warmup)
        n_captions = len(split_arrays(data, "train")[0])
        val_count = len(data.get("val_captions", ()))
        self._validation_skipped = validate is None and val_count > VALIDATION_LIMIT * n_captions
        self.validate = val_count > 0 and not self._validation_skipped if validate is None else validate
        if keep_best and not self.validate and best_by == "val_loss":
            raise InvalidValueError(
                "keep_best: expected False without validation, got True. Pass validate=True, and data with a val split."
            )
        if not isinstance(best_by, str):
            raise InvalidTypeError(f"best_by: expected the name of a score, got {short(best_by)}.")
        if best_by != "val_loss" and metric is None:
            raise InvalidValueError(f"best_by: expected 'val_loss', or a solver with a metric, got {short(best_by)}.")
        if best_by != "val_loss":
            check_score_name("best_by", best_by, metric)
        if self_critical is not None and group_by_length:
            raise InvalidValueError("group_by_length: expected False with self_critical, which draws its captions.")
        self._splits = ("train", "val") if self.validate else ("train",)
        sizes = {name: tuple(array.shape) for name, array in model.params.items()}
        validate_data(
            data,
            self._splits,
            vocab_size=sizes["b_vocab"][0] if "b_vocab" in sizes else None,
            feature_dim=sizes["W_proj"][0] if "W_proj" in sizes else None,
        )
        self.data = data
        self._placed = data  # while training, with features on the device
        self.self_critical, self.best_by = self_critical, best_by
        self._critic = None if self_critical is None else Critic(self_critical, model, data, self.ranks)
        rows = (data if self._critic is None else self._critic.pictures(data))["train_captions"]
        train_count = len(rows)
        self.lr_decay, self.batch_size, self.num_epochs = lr_decay, batch_size, num_epochs
        self.print_every, self.verbose, self.clip_norm = print_every, verbose, clip_norm
        self.group_by_length = bool(group_by_length)
        self.metric, self.keep_best = metric, keep_best
        self.callbacks, self.step_callbacks = tuple(callbacks), tuple(step_callbacks)
        for callback in self.callbacks:
            if isinstance(callback, EarlyStopping):
                callback.check(self)
        self.history, self.checkpoint = history, checkpoint
        self.seed = int(self.ranks.from_root(lambda: secrets.randbits(32) if seed is None else int(seed)))
        self.iterations_per_epoch = iterations_per_epoch(train_count, batch_size)
        steps = num_epochs * self.iterations_per_epoch
        if warmup > steps:
            raise InvalidValueError(
                f"warmup: expected at most the {steps:,} steps of {num_epochs} epochs, got {warmup:,}: the learning "
                "rate would never be reached. Lower it, or train for more epochs."
            )
        self._null = getattr(model, "word_to_idx", {}).get(NULL, 0)
        self._train_count = train_count
        self._train_tokens = max(self._count_tokens(rows), 1)
        self._reset()
        self._settings: dict[str, Any] = {
            "update_rule": update_rule,
            "optim_config": {key: float(value) for key, value in self._optimizer.config.items()},
            "lr_decay": float(lr_decay),
            "batch_size": batch_size,
            "schedule": schedule if isinstance(schedule, str) else "a function",
            "warmup": warmup,
            "clip_norm": None if clip_norm is None else float(clip_norm),
            "group_by_length": self.group_by_length,
            "micro_batch_size": None if micro_batch_size is None else int(micro_batch_size),
            "param_config": {
                name: {key: float(value) for key, value in config.items()}
                for name, config in self._optimizer.param_config.items()
            },
            "frozen": sorted(set(self.frozen)),
            "train_captions": n_captions,
            "self_critical": None if self_critical is None else self_critical.as_json(),
            "best_by": best_by,
            **{name: float(getattr(model, name)) for name in REGULARIZATION if hasattr(model, name)},
            **({"precision": model.precision} if hasattr(model, "precision") else {}),
        }
        if self.ranks.size > 1:
            check_same(self.ranks, self._common_values(resume))
        # a script may give rank 0 alone, which writes, a folder
        folder = self.ranks.from_root(
            lambda: (
                None if checkpoint is None or not (Path(checkpoint) / STATE_FILE).exists() else os.fspath(checkpoint)
            )
        )
        if folder is not None:
            if not resume:
                raise FileExistsError(
                    f"{folder} holds the state of an earlier run. Pass resume=True to continue it, or name another "
                    "folder."
                )
            self._restore(folder, seed)

    def _check_parameters(self, model: Any) -> None:
        """Check the parameters of rank 0, with which all ranks start."""
        self.ranks.from_root(lambda: check_finite_parameters(model.params))

    def _common_values(self, resume: bool) -> dict[str, Any]:
        """Return what has to be the same on all ranks, so that they come to the same sums of the same arrays."""
        digests = {}
        for split in self._splits:
            digest = hashlib.sha256()
            captions, features, images = split_arrays(self.data, split)
            for array in (captions, images):
                digest.update(np.ascontiguousarray(array).data)
            digests[f"data of the split {split}"] = [len(captions), list(features.shape), digest.hexdigest()[:8]]
        params = self.model.params.items()
        return {
            "model.params": [
                [name, list(array.shape), str(array.dtype), is_host_array(array)] for name, array in params
            ],
            "kernels": sorted({kernels_for(array).name for _, array in params}),
            "validate": bool(self.validate),
            **digests,
            "num_epochs": self.num_epochs,
            "print_every": self.print_every,
            "metric": self.metric is not None,
            "resume": bool(resume),
            **self._settings,
        }

    def _reset(self) -> None:
        """Reset counters, histories and running averages, but not the parameters."""
        self._optimizer = Optimizer(
            self.update_rule, self.optim_config, self.model.params, param_config=self.param_config, frozen=self.frozen
        )
        self._steps = training_steps(
            self.model,
            self._optimizer,
            self.clip_norm,
            self.micro_batch_size,
            self.ranks,
            1 if self.self_critical is None else self.self_critical.samples,
        )
        self._losses = LossRecord()
        self._target = self.num_epochs
        self.epoch = self.step = 0
        self.interrupted = self.stopped = self._finished = False
        self.best_params: dict[str, Array] = {}
        self.best_epoch: int | None = None
        self.val_loss_history: list[float] = []
        self.metric_history: list[Any] = []
        self.reward_history: list[float] = []
        self.start_scores: dict[str, Any] = {}
        # the course's solver has these and never fills them
        self.best_val_acc = 0.0
        self.train_acc_history: list[float] = []
        self.val_acc_history: list[float] = []

    def __repr__(self) -> str:
        score = self.best_score
        best = "" if score is None else f", {self.best_by} {score:.4f} in epoch {self.best_epoch}"
        return (
            f"<{type(self).__name__}: epoch {self.epoch} of {self._target}, step {self.step:,}{best}; "
            f"batches of {self.batch_size} of {self._train_count:,} captions, {self._optimizer!r}, seed {self.seed}; "
            f"{self.model!r}>"
        )

    def _count_tokens(self, captions: Any) -> int:
        """Count the words of host captions that a loss is over."""
        return int((captions[:, 1:] != self._null).sum())

    def _learning_rate(self) -> float:
        """Return the learning rate of the parameters that have none of their own."""
        special = {name for name, config in self._optimizer.param_config.items() if "learning_rate" in config}
        configs = self.optim_configs
        name = next((name for name in configs if name not in special), next(iter(configs)))
        return float(configs[name]["learning_rate"])

    @property
    def loss_history(self) -> list[float]:
        """Loss of each step so far (on a device, reading it waits for the last one)."""
        return self._losses.values

    @property
    def optim_configs(self) -> dict[str, dict[str, Any]]:
        """Config of the update rule for each parameter: hyper-parameters and running state."""
        return self._optimizer.configs

    @property
    def best_val_loss(self) -> float:
        """Validation loss per word of the best epoch so far, or of the start; infinite where there is none."""
        losses, epoch = self.val_loss_history, self.best_epoch
        if epoch == 0:
            return float(self.start_scores.get("val_loss", math.inf))
        return losses[epoch - 1] if epoch is not None and epoch <= len(losses) else math.inf

    @property
    def best_score(self) -> float | None:
        """Score of the best epoch so far, by which it was chosen: that of `best_by`; None if there is none."""
        if self.best_epoch is None:
            return None
        if self.best_by == "val_loss":
            return self.best_val_loss
        scores = self.metric_history[self.best_epoch - 1] if self.best_epoch else self.start_scores.get("metric")
        return metric_score(scores, self.best_by)

    @property
    def _has_best(self) -> bool:
        """Whether epochs are compared."""
        return bool(self.validate) or self.best_by != "val_loss"

    def _is_best(self, record: Mapping[str, Any]) -> bool:
        """Return whether an epoch, whose record is not yet in the histories, is the best so far."""
        if self.best_by == "val_loss":
            return bool(record["val_loss"] < self.best_val_loss)
        score = metric_score(record["metric"], self.best_by)
        best = self.best_score
        return score is not None and (best is None or score > best)

    def evaluate(self, split: str = "val") -> float:
        """Score a whole split: negative log-likelihood per word, in nats, without dropout.

        Parameters
        ----------
        split : str
            The split.

        Returns
        -------
        float
            The score; lower is better.

        Raises
        ------
        ValueError
            If the data lack the split, or it has no words.
        """
        return loss_per_token(self.model, self.data, split, self.batch_size)

    def check_accuracy(self, X: Any, y: Any, num_samples: int | None = None, batch_size: int = 100) -> float:
        """Return 0.0, as the course's captioning solver does: captions have no accuracy. Use `evaluate` or `metric`.

        Parameters
        ----------
        X, y, num_samples, batch_size
            Not used.

        Returns
        -------
        float
            0.0.
        """
        return 0.0

    def _save(self) -> None:
        """Save the state, from rank 0."""
        self.ranks.from_root(self._write_state)

    def _write_state(self) -> None:
        if self.checkpoint is None:
            return
        state = TrainingState(
            step=self.step,
            epoch=self.epoch,
            seed=self.seed,
            settings=self._settings,
            params=self.model.params,
            optimizer=self._optimizer.state_dict(),
            loss_history=self._losses.values,
            val_loss_history=self.val_loss_history,
            metric_history=self.metric_history,
            reward_history=self.reward_history,
            best_params=self.best_params,
            best_epoch=self.best_epoch,
            stopped=self.stopped,
            start_scores=self.start_scores,
        )
        save_state(self.checkpoint, state)

    def _restore(self, folder: str | os.PathLike[str], seed: int | None) -> None:
        state = load_shared_state(self.ranks, folder)
        settings = self._settings if seed is None else {**self._settings, "seed": seed}
        state.settings["seed"] = state.seed
        if isinstance(state.settings.get("frozen"), list):  # earlier versions stored the order that was given
            state.settings["frozen"] = sorted(set(map(str, state.settings["frozen"])))
        check_fits(state, settings, self.model.params, os.fspath(folder))
        self.model.params.update(state.params)
        try:
            self._optimizer.load_state_dict(state.optimizer)
        except (ValueError, TypeError) as error:
            raise CheckpointError(f"{os.path.join(folder, STATE_FILE)}: {error}") from error
        self.step, self.epoch, self.seed = state.step, state.epoch, state.seed
        self._losses = LossRecord(state.loss_history)
        self.val_loss_history, self.metric_history = state.val_loss_history, state.metric_history
        # the entries of epochs that were trained without validation, or without a metric
        if self.validate:
            self.val_loss_history += [math.nan] * (state.epoch - len(self.val_loss_history))
        if self.metric is not None:
            self.metric_history += [None] * (state.epoch - len(self.metric_history))
        self.reward_history = state.reward_history
        if self.self_critical is not None and len(self.reward_history) != state.step:
            raise CheckpointError(
                f"{os.path.join(folder, STATE_FILE)} is damaged: expected a reward of each of {state.step} steps, got "
                f"{len(self.reward_history)}."
            )
        self.best_params, self.best_epoch = state.best_params, state.best_epoch
        self.start_scores = state.start_scores
        # the process may have ended between the end of an epoch, whose state is saved, and its callbacks
        ended = self.epoch > 0 and self.step == self.epoch * self.iterations_per_epoch
        stops = [callback for callback in self.callbacks if isinstance(callback, EarlyStopping)]
        self.stopped = state.stopped or (ended and any(stop.is_due(self) for stop in stops))
        if self.stopped:
            self._target = self.epoch  # the run was finished on purpose: train() adds nothing to it
        history = self.history
        self.ranks.from_root(lambda: None if history is None else rewind_history(history, self.step, self.epoch))
