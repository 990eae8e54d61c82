"""The training loop: minibatches, updates, validation, and a run that can stop and go on anywhere."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeAlias

from capgpu.backend import Array, asarray
from capgpu.data.arrays import Minibatch, split_arrays, validate_data
from capgpu.data.batches import epoch_batches, iterations_per_epoch
from capgpu.data.device_cache import place_features
from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.evaluation.likelihood import loss_per_token
from capgpu.optim import Optimizer
from capgpu.optim.schedules import Schedule, find_schedule, with_warmup
from capgpu.random import fold_key
from capgpu.training.graphs import training_steps
from capgpu.training.history import plain, rewind_history
from capgpu.training.interrupt import InterruptGuard
from capgpu.training.losses import LossRecord, copy_arrays, divergence
from capgpu.training.reporting import Reporter
from capgpu.training.state import STATE_FILE, TrainingState, check_fits, load_state, save_state
from capgpu.validation import check_count, check_positive, checked_data
from capgpu.vocabulary import NULL

__all__ = ["CaptioningSolver"]

Metric: TypeAlias = Callable[[Any, Mapping[str, Any]], "float | Mapping[str, float]"]
EpochCallback: TypeAlias = Callable[["CaptioningSolver", Mapping[str, Any]], None]

# A whole validation set beside a handful of training captions would cost many times the training itself.
_VALIDATION_LIMIT = 20


class CaptioningSolver:
    """Trains a captioning model.

    Parameters
    ----------
    model : CaptioningRNN
        Or any object with ``params`` (a dict of arrays) and ``loss(features, captions) -> (loss, grads)``,
        its loss summed over the words and divided by the captions. ``nll`` serves validation if it is there,
        and ``loss`` gets a ``dropout_key`` if ``feature_dropout`` or ``output_dropout`` is above 0.
    data : dict
        The course's data dictionary, see `capgpu.data.arrays`. While `train` runs, a device holds a copy of the
        features that fit, see `capgpu.data.device_cache`.
    update_rule : str
        One of `capgpu.optim.UPDATE_RULES`.
    optim_config : dict, optional
        Hyper-parameters of the rule, such as ``{"learning_rate": 1e-3}``.
    lr_decay : float
        Multiplies the learning rate after each epoch.
    batch_size : int
        Captions in a minibatch; an epoch has ``max(captions // batch_size, 1)`` of them.
    num_epochs : int
        Epochs of one call of `train`.
    print_every : int
        Steps between two lines of progress, and of history.
    verbose : bool
        False prints nothing.
    seed : int, optional
        Seed of minibatches and dropout; by default a fresh one, kept in the attribute `seed`.
    schedule : str or callable
        One of `capgpu.optim.schedules.SCHEDULES`, or ``schedule(step, total_steps) -> factor``.
    warmup : int
        Steps over which the learning rate first rises.
    clip_norm : float, optional
        Largest joint norm of the gradients.
    group_by_length : bool
        Whether captions of like lengths share a minibatch: fewer steps of the recurrence, and fuller ones.
    validate : bool, optional
        Whether to score the whole validation split after each epoch. By default, if the data have one, unless
        it holds more than 20 captions for each one of training.
    metric : callable, optional
        ``metric(model, data) -> float or dict of floats``, called after each epoch.
    keep_best : bool
        Put the parameters with the lowest validation loss back when training has finished.
    history : path, optional
        JSON Lines file to append to, see `capgpu.training.history`.
    checkpoint : path, optional
        Folder that gets the state of the run after each epoch, and where Ctrl-C or an error stopped it.
    resume : bool
        Continue from the state in `checkpoint`, if there is one, with the bits of a run that never stopped.
    callbacks : sequence of callable
        Each called as ``callback(solver, record)`` after each epoch, with the epoch's line of history. On a CUDA
        device the arrays in `model.params` may be updated in place: copy those that are to be kept.

    Attributes
    ----------
    epoch, step : int
        Epochs and updates done.
    val_loss_history, metric_history : list
        Validation loss per token, and the metric, of each epoch.
    best_params : dict of str to array
        Copies of the parameters with the lowest validation loss so far.
    best_epoch : int or None
        Their epoch, counted from 1.
    best_val_acc, train_acc_history, val_acc_history : float, list, list
        0.0 and empty, as the course's captioning solver leaves them.
    interrupted : bool
        Whether Ctrl-C ended the last `train`; calling it again goes on from there.

    Raises
    ------
    TypeError, ValueError
        For any argument that cannot work, before anything is computed.
    FileExistsError
        If `checkpoint` holds the state of an earlier run and `resume` is False.
    capgpu.checkpoint.CheckpointError
        If the state to resume from is damaged, or belongs to another model or other settings.
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
    ) -> None:
        if not hasattr(model, "params") or not callable(getattr(model, "loss", None)):
            raise InvalidTypeError(f"model is a {type(model).__name__} without params and loss(features, captions).")
        check_count("batch_size", batch_size, 1)
        check_count("num_epochs", num_epochs, 1)
        check_count("print_every", print_every, 1)
        check_count("warmup", warmup, 0)
        check_count("seed", 0 if seed is None else seed, 0)
        check_positive("lr_decay", lr_decay)
        check_positive("clip_norm", 1.0 if clip_norm is None else clip_norm)
        for function in (metric, *callbacks):
            if function is not None and not callable(function):
                raise InvalidTypeError(f"metric and callbacks must be functions; {function!r} is none.")
        if resume and checkpoint is None:
            raise InvalidValueError("resume=True needs checkpoint, the folder that holds the state.")
        self.model, self.update_rule, self.optim_config = model, update_rule, optim_config
        self._schedule = with_warmup(schedule if callable(schedule) else find_schedule(schedule), warmup)
        train_count = len(split_arrays(data, "train")[0])
        val_count = len(data.get("val_captions", ()))
        self._validation_skipped = validate is None and val_count > _VALIDATION_LIMIT * train_count
        self.validate = val_count > 0 and not self._validation_skipped if validate is None else validate
        if keep_best and not self.validate:
            raise InvalidValueError("keep_best=True needs validation: pass validate=True and data with a val split.")
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
        self.lr_decay, self.batch_size, self.num_epochs = lr_decay, batch_size, num_epochs
        self.print_every, self.verbose, self.clip_norm = print_every, verbose, clip_norm
        self.group_by_length = bool(group_by_length)
        self.metric, self.keep_best, self.callbacks = metric, keep_best, tuple(callbacks)
        self.history, self.checkpoint = history, checkpoint
        self.seed = secrets.randbits(32) if seed is None else seed
        self.iterations_per_epoch = iterations_per_epoch(train_count, batch_size)
        null = getattr(model, "word_to_idx", {}).get(NULL, 0)
        self._train_count = train_count
        self._train_tokens = max(int((data["train_captions"][:, 1:] != null).sum()), 1)
        self._reset()
        self._settings: dict[str, Any] = {
            "update_rule": update_rule,
            "optim_config": {key: float(value) for key, value in self._optimizer.config.items()},
            "lr_decay": float(lr_decay),
            "batch_size": int(batch_size),
            "schedule": schedule if isinstance(schedule, str) else "a function",
            "warmup": int(warmup),
            "clip_norm": None if clip_norm is None else float(clip_norm),
            "group_by_length": self.group_by_length,
            "train_captions": train_count,
        }
        if checkpoint is not None and (Path(checkpoint) / STATE_FILE).exists():
            if not resume:
                raise FileExistsError(
                    f"{os.fspath(checkpoint)} holds the state of an earlier run. Pass resume=True to "
                    "continue it, or name another folder."
                )
            self._restore(checkpoint, seed)

    # --- the course's names ----------------------------------------------------------------------------

    def _reset(self) -> None:
        """Reset counters, histories and running averages, but not the parameters."""
        self._optimizer = Optimizer(self.update_rule, self.optim_config, self.model.params)
        self._steps = training_steps(self.model, self._optimizer, self.clip_norm)
        self._losses = LossRecord()
        self._target = self.num_epochs
        self.epoch = self.step = 0
        self.interrupted = self._finished = False
        self.best_params: dict[str, Array] = {}
        self.best_epoch: int | None = None
        self.val_loss_history: list[float] = []
        self.metric_history: list[Any] = []
        # the course's solver has these and never fills them
        self.best_val_acc = 0.0
        self.train_acc_history: list[float] = []
        self.val_acc_history: list[float] = []

    def _step(self) -> None:
        """Run one update, on the next minibatch, at the learning rate of the current epoch without a schedule."""
        if self.step == (self.epoch + 1) * self.iterations_per_epoch:
            self._begin_next_epoch()
        with closing(self._batches()) as batches:
            captions, features, _ = next(batches)
            self._update(captions, features, 1.0, looked_at=True)

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

    # --- what a run has come to ------------------------------------------------------------------------

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
        """Lowest validation loss per token so far; infinite where there is none."""
        return math.inf if self.best_epoch is None else self.val_loss_history[self.best_epoch - 1]

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

    # --- training --------------------------------------------------------------------------------------

    def train(self) -> None:
        """Train for `num_epochs` epochs, or until Ctrl-C.

        Called again it trains as many epochs more; after an interruption, or where a state was resumed, it
        goes on to the end that was planned. The first Ctrl-C lets the step at hand finish, saves history and
        state, and returns with `interrupted` set. A second one raises KeyboardInterrupt at once.

        Raises
        ------
        FloatingPointError
            For a loss that is NaN or infinite. On the host every loss is looked at before its update is made.
            On a device that would mean waiting at each step: losses are looked at where a line is printed and
            at an epoch's first and last step. `model.params` then holds the last parameters known to be good.
        """
        if self._finished:
            self._target += self.num_epochs
        self.interrupted = self._finished = False
        total_steps = self._target * self.iterations_per_epoch
        tokens_per_step = self._train_tokens / self.iterations_per_epoch
        report = Reporter(self.verbose, self.history, self.step, total_steps, self._target, tokens_per_step)
        reason = "KeyboardInterrupt"
        with closing(report), InterruptGuard() as guard:
            report.write("start", step=self.step, epoch=self.epoch, seed=self.seed, **self._settings)
            if self._validation_skipped:
                report.note(
                    f"no validation: the val split is over {_VALIDATION_LIMIT} times as large as the train "
                    "split (validate=True scores it all the same)"
                )
            try:
                self._placed = place_features(self.data, self._splits)
                self._train_epochs(report, guard)
                reason = "interrupted" if self.interrupted else "finished"
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                if not isinstance(error, FloatingPointError):
                    self._save()  # a step is made whole or not at all: a metric that fails costs no epoch
                raise
            finally:
                self._placed = self.data
                report.write("end", step=self.step, epoch=self.epoch, reason=reason)

    def _train_epochs(self, report: Reporter, guard: InterruptGuard) -> None:
        while self.epoch < self._target:
            self._train_epoch(report, guard)
            self._check_losses()
            ended = not guard.requested and self._end_epoch(report, guard)
            if not ended or (guard.requested and self.epoch < self._target):
                self._save()
                self.interrupted = True
                report.note(f"interrupted after step {self.step}; train() goes on from there")
                return
        self._finished = True
        if self.keep_best and self.best_params:
            self.model.params.update(copy_arrays(self.best_params))

    def _train_epoch(self, report: Reporter, guard: InterruptGuard) -> None:
        """Run the remaining updates of an epoch."""
        step = self.step
        steps = self.num_epochs * self.iterations_per_epoch
        schedule_start = self._target * self.iterations_per_epoch - steps
        first = step  # its loss is looked at, whatever print_every
        report.begin_epoch(step)
        with closing(self._batches()) as batches:
            for captions, features, _ in batches:
                printed = step % self.print_every == 0
                factor = self._schedule(step - schedule_start, steps)
                self._update(captions, features, factor, looked_at=printed or step == first)
                step = self.step
                if printed:
                    report.step(step, self.epoch + 1, self._losses.values[-1], self._learning_rate() * factor)
                if guard.requested:
                    return

    def _batches(self) -> Generator[Minibatch, None, None]:
        """Return the remaining minibatches of the current epoch."""
        return epoch_batches(
            self._placed,
            self.batch_size,
            seed=self.seed,
            epoch=self.epoch,
            start=self.step - self.epoch * self.iterations_per_epoch,
            group_by_length=self.group_by_length,
        )

    def _update(self, captions: Any, features: Array, factor: float, *, looked_at: bool) -> None:
        """Compute loss and gradients of a minibatch, and update the parameters.

        A loss that is looked at is checked before the update.
        """
        model, step = self.model, self.step
        dropout = any(getattr(model, name, 0.0) > 0 for name in ("feature_dropout", "output_dropout"))
        key = fold_key(self.seed, step) if dropout else None
        with checked_data():
            loss = self._steps.loss(asarray(features), captions, factor, whole=not looked_at, dropout_key=key)
        on_host = self._losses.append(loss)
        if looked_at:
            self._check_losses()
            self._losses.keep(step, model.params)
        elif on_host:
            self._check_losses()
        self._steps.update(factor)
        self.step = step + 1

    def _end_epoch(self, report: Reporter, guard: InterruptGuard) -> bool:
        """Score, record and save a finished epoch; False if Ctrl-C came before its score was known."""
        losses = self._losses.values[self.epoch * self.iterations_per_epoch : self.step]
        share, rest = divmod(self._train_count, self.iterations_per_epoch)
        total = sum(losses) * share + sum(losses[:rest])  # the first minibatches hold one caption more
        record: dict[str, Any] = {
            "epoch": self.epoch + 1,
            "step": self.step,
            "loss": sum(losses) / len(losses),
            "train_loss": total / self._train_tokens,
            "learning_rate": self._learning_rate(),
            **report.end_updates(self.step),
        }
        if self.validate:
            score = loss_per_token(self.model, self._placed, "val", self.batch_size, lambda: guard.requested)
            if score is None:
                return False
            record |= {"val_loss": score, "best": score < self.best_val_loss}
        if self.metric is not None:
            record["metric"] = plain(self.metric(self.model, self.data))
            self.metric_history.append(record["metric"])
        if self.validate:
            self.val_loss_history.append(record["val_loss"])
            if record["best"]:
                self.best_params, self.best_epoch = copy_arrays(self.model.params), self.epoch + 1
        self._begin_next_epoch()
        report.epoch(record)
        self._save()
        for callback in self.callbacks:
            callback(self, record)
        return True

    def _begin_next_epoch(self) -> None:
        self.epoch += 1
        for config in self.optim_configs.values():
            config["learning_rate"] *= self.lr_decay

    def _learning_rate(self) -> float:
        return float(next(iter(self.optim_configs.values()))["learning_rate"])

    def _check_losses(self) -> None:
        bad = self._losses.first_not_finite()
        if bad is not None:
            loss = self._losses.values[bad]
            self.step = self._losses.go_back(self.step, self.model.params)
            raise divergence(bad + 1, loss, self.step, self._learning_rate(), self.clip_norm)

    # --- the state on disk -----------------------------------------------------------------------------

    def _save(self) -> None:
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
            best_params=self.best_params,
            best_epoch=self.best_epoch,
        )
        save_state(self.checkpoint, state)

    def _restore(self, folder: str | os.PathLike[str], seed: int | None) -> None:
        state = load_state(folder)
        settings = self._settings if seed is None else {**self._settings, "seed": seed}
        state.settings["seed"] = state.seed
        check_fits(state, settings, self.model.params, os.fspath(folder))
        self.model.params.update(state.params)
        self._optimizer.load_state_dict(state.optimizer)
        self.step, self.epoch, self.seed = state.step, state.epoch, state.seed
        self._losses = LossRecord(state.loss_history)
        self.val_loss_history, self.metric_history = state.val_loss_history, state.metric_history
        self.best_params, self.best_epoch = state.best_params, state.best_epoch
        if self.history is not None:
            rewind_history(self.history, self.step, self.epoch)
