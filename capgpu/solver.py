"""The training loop: minibatches, updates, validation, and a run that can be stopped and resumed at any step."""

from __future__ import annotations

import math
from collections.abc import Generator, Mapping
from contextlib import closing, nullcontext
from typing import Any

from capgpu.backend import Array, asarray
from capgpu.data.arrays import Minibatch
from capgpu.data.batches import epoch_batches
from capgpu.data.device_cache import place_features
from capgpu.evaluation.likelihood import loss_per_token
from capgpu.optim.schedules import checked_factor
from capgpu.random import fold_key
from capgpu.training.agreement import any_rank, share_arrays
from capgpu.training.callbacks import checked_metric
from capgpu.training.history import plain
from capgpu.training.interrupt import InterruptGuard
from capgpu.training.losses import copy_arrays, divergence
from capgpu.training.reporting import Reporter
from capgpu.training.solver_base import VALIDATION_LIMIT, SolverBase
from capgpu.validation import checked_data

__all__ = ["CaptioningSolver"]


class CaptioningSolver(SolverBase):
    """Trains a captioning model.

    Parameters
    ----------
    model : CaptioningRNN
        Or any object with ``params`` (a dict of arrays) and ``loss(features, captions) -> (loss, grads)``,
        its loss summed over the words and divided by the captions. ``nll`` serves validation if it is there,
        and ``loss`` gets a ``dropout_key`` if one of its attributes ``feature_dropout``, ``output_dropout`` and
        ``layer_dropout`` is above 0.
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
        ``metric(model, data) -> float or dict of floats``, called after each epoch, such as
        `capgpu.evaluation.caption_metric.CaptionMetric`.
    keep_best : bool
        Put the parameters of the best epoch back when training has finished.
    history : path, optional
        JSON Lines file to append to, see `capgpu.training.history`.
    checkpoint : path, optional
        Folder that gets the state of the run after each epoch, and where Ctrl-C or an error stopped it.
    resume : bool
        Continue from the state in `checkpoint`, if there is one, with the bits of a run that never stopped.
    callbacks : sequence of callable
        Each called as ``callback(solver, record)`` after each epoch, with the epoch's line of history. On a CUDA
        device the arrays in ``model.params`` may be updated in place: copy those that are to be kept.
        `capgpu.training.callbacks.EarlyStopping` is one; any tracker: ``lambda solver, record: tracker.log(record)``.
    step_callbacks : sequence of callable
        Each called as ``callback(solver, record)`` after each update, see `capgpu.training.callbacks.StepCallback`.
    micro_batch_size : int, optional
        Captions computed at a time (gradient accumulation): a minibatch of more takes the memory of so many only. By
        default the whole minibatch.
    param_config : dict of str to dict, optional
        Hyper-parameters of single parameters, such as ``{"W_embed": {"learning_rate": 1e-4}}``.
    frozen : sequence of str
        Parameters that are not trained.
    self_critical : SelfCritical, optional
        Train on the rewards of captions that the model draws, see `capgpu.training.self_critical.SelfCritical`. An
        epoch then has each training picture once, a minibatch `batch_size` pictures, and the loss is that of drawn
        captions weighted by reward less baseline: it is no measure of progress, the reward is. The model at the start
        is scored as epoch 0, which is the best one until another is better.
    best_by : str
        What the best epoch is chosen by: ``"val_loss"``, or the name of a score of `metric`, which is to be large (for
        a metric that returns a number, any name).

    Attributes
    ----------
    epoch, step : int
        Epochs and updates done.
    val_loss_history, metric_history : list
        Validation loss per word, and the metric, of each epoch; NaN and None for those of a resumed run that were
        trained without.
    reward_history : list of float
        Mean reward of the captions drawn at each step of self-critical training.
    best_params : dict of str to array
        Copies of the parameters of the best epoch so far, that with the lowest validation loss unless `best_by` says
        otherwise.
    best_epoch : int or None
        Their epoch, counted from 1; 0 for the start of self-critical training.
    start_scores : dict
        ``val_loss`` and ``metric`` at the start of self-critical training.
    best_val_acc, train_acc_history, val_acc_history : float, list, list
        0.0 and empty, as the course's captioning solver leaves them.
    ranks : capgpu.distributed.Communicator
        The processes that train the model together; a single one without ``mpiexec`` or ``srun``.
    interrupted : bool
        Whether Ctrl-C ended the last `train`; calling it again continues the training.
    stopped : bool
        Whether `stop` ended the last `train`.

    Raises
    ------
    TypeError, ValueError
        For any argument that cannot work, before anything is computed; after an epoch, for a metric that returns
        anything but a number or a dict of numbers.
    FileExistsError
        If `checkpoint` holds the state of an earlier run and `resume` is False.
    capgpu.checkpoint.CheckpointError
        If the state to resume from is damaged, or belongs to another model or other settings.

    Examples
    --------
    >>> import numpy as np, capgpu
    >>> words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "cat": 3, "dog": 4}
    >>> data = {
    ...     "word_to_idx": words,
    ...     "train_captions": np.array([[1, 3, 2], [1, 4, 2]]),
    ...     "train_features": np.eye(2, dtype=np.float32),
    ...     "train_image_idxs": np.array([0, 1]),
    ... }
    >>> model = capgpu.CaptioningRNN(words, input_dim=2, wordvec_dim=4, hidden_dim=8, cell_type="lstm", seed=0)
    >>> def stop_when_learnt(solver, record):
    ...     if record["train_loss"] < 0.01:
    ...         solver.stop()
    >>> solver = capgpu.CaptioningSolver(
    ...     model, data, "adam", {"learning_rate": 0.1}, num_epochs=99, verbose=False, step_callbacks=[stop_when_learnt]
    ... )
    >>> solver.train()
    >>> solver.stopped, capgpu.to_numpy(model.sample(capgpu.asarray(data["train_features"]), 1)).tolist()
    (True, [[3], [4]])
    """

    def train(self) -> None:
        """Train for `num_epochs` epochs, or until Ctrl-C or SIGTERM.

        Called again it trains as many epochs more; after an interruption, or if a state was resumed, it continues to
        the planned end. The first Ctrl-C, or SIGTERM, lets the current step finish, saves history and state, sets
        `interrupted` and raises KeyboardInterrupt, so that what follows in a notebook is not run with a model trained
        in part. A second one raises it at once.

        Raises
        ------
        ValueError
            For parameters that are not finite at the start, before anything is computed or written.
        KeyboardInterrupt
            After Ctrl-C, once the state has been saved.
        FloatingPointError
            For a loss that is NaN or infinite. On the host every loss is checked before its update is made. On a
            device that would mean waiting at each step: losses are checked where a line is printed and at an
            epoch's first and last step. ``model.params`` then holds the last parameters known to be good.
        """
        self._check_parameters(self.model)  # they may have been replaced
        if self._finished:
            self._target += self.num_epochs
            self.stopped = False
        self.interrupted = self._finished = self._stop_requested = self._interrupt_requested = False
        total_steps = self._target * self.iterations_per_epoch
        captions_per_row = 1 if self.self_critical is None else self.self_critical.samples
        tokens_per_step = captions_per_row * self._train_tokens / self.iterations_per_epoch
        is_root = self.ranks.rank == 0
        report = Reporter(
            self.verbose and is_root,
            self.history if is_root else None,
            self.step,
            total_steps,
            self._target,
            tokens_per_step,
            scored=self.validate or self.metric is not None,
        )
        reason = "KeyboardInterrupt"
        with closing(report), InterruptGuard() as guard:
            report.write(
                "start",
                step=self.step,
                epoch=self.epoch,
                steps_per_epoch=self.iterations_per_epoch,
                seed=self.seed,
                **self._settings,
            )
            if self._validation_skipped:
                report.note(
                    f"no validation: the val split is over {VALIDATION_LIMIT} times as large as the train "
                    "split (validate=True scores it all the same)"
                )
            try:
                share_arrays(self.ranks, self.model.params)
                self._placed = place_features(self.data, self._splits)
                self._train_epochs(report, guard)
                reason = "interrupted" if self.interrupted else "stopped" if self.stopped else "finished"
            except Exception as error:
                reason = f"{type(error).__name__}: {error}"
                if not isinstance(error, FloatingPointError) and is_root:
                    self._write_state()  # the state is that of a complete step: a metric that fails costs no epoch
                raise
            finally:
                self._placed = self.data
                report.write("end", step=self.step, epoch=self.epoch, reason=reason)
        if self.interrupted:
            raise KeyboardInterrupt(f"training was interrupted after step {self.step}; train() continues from there")

    def stop(self) -> None:
        """End training after the current update, as at its planned end; for callbacks and other threads.

        `train` then saves the state, returns, and leaves the best parameters in the model with `keep_best`. A run that
        is resumed from that state is finished, too; `train` called again trains `num_epochs` more epochs.
        """
        self._stop_requested = True

    def _train_epochs(self, report: Reporter, guard: InterruptGuard) -> None:
        starts = self._critic is not None and self.step == 0 and self._has_best and not self.start_scores
        if starts and not self._score_start(report, guard):
            self._pause(report)
            return
        while self.epoch < self._target:
            self._train_epoch(report, guard)
            self._check_losses()
            whole = self.step == (self.epoch + 1) * self.iterations_per_epoch
            ended = whole and not self._interrupt_requested and self._end_epoch(report, guard)
            self._agree(guard)
            if self._stop_requested:
                self._target, self.stopped, self.interrupted = self.epoch, True, self._interrupt_requested
                self._save()
                report.note(f"stopped after step {self.step}")
                if self.interrupted:
                    return
                break
            if not ended or (self._interrupt_requested and self.epoch < self._target):
                self._pause(report)
                return
        self._finished = True
        if self.keep_best and self.best_params:
            self.model.params.update(copy_arrays(self.best_params))

    def _pause(self, report: Reporter) -> None:
        """Save an interrupted run."""
        self._save()
        self.interrupted = True
        report.note(f"interrupted after step {self.step}; train() continues from there")

    def _train_epoch(self, report: Reporter, guard: InterruptGuard) -> None:
        """Run the remaining updates of an epoch."""
        step = self.step
        steps = self.num_epochs * self.iterations_per_epoch
        schedule_start = self._target * self.iterations_per_epoch - steps
        first = step  # its loss is checked for any print_every
        report.begin_epoch(step)
        with closing(self._batches()) as batches:
            for captions, features, images in batches:
                printed = step % self.print_every == 0
                factor = checked_factor(self._schedule(step - schedule_start, steps), step - schedule_start)
                self._update(captions, features, images, factor, check_loss=printed or step == first)
                step = self.step
                if printed or self.step_callbacks:
                    self._report_step(report, captions, self._learning_rate() * factor, printed=printed)
                # the first update may have compiled kernels, and callbacks take their time
                self._agree(guard, patient=bool(self.step_callbacks) or step == first + 1)
                if self._interrupt_requested or self._stop_requested:
                    return

    def _agree(self, guard: InterruptGuard, *, patient: bool = True) -> None:
        """Pass an interrupt or a call of `stop` on one rank to all."""
        self._interrupt_requested, self._stop_requested = any_rank(
            self.ranks, guard.requested, self._stop_requested, patient=patient
        )

    def _report_step(self, report: Reporter, captions: Any, learning_rate: float, *, printed: bool) -> None:
        """Print a step and call the step callbacks; on a device only printing waits for the loss."""
        words_per_caption = max(self._count_tokens(captions), 1) / captions.shape[0]
        reward = {} if self._critic is None else {"reward": self.reward_history[-1]}
        if printed:
            loss = self._losses.values[-1]
            report.step(self.step, self.epoch + 1, loss, loss / words_per_caption, learning_rate, **reward)
        loss = self._losses.last
        record = {
            "step": self.step,
            "epoch": self.epoch + 1,
            "loss": loss,
            "train_loss": loss / words_per_caption,
            "learning_rate": learning_rate,
            **reward,
        }
        for callback in self.step_callbacks:
            callback(self, record)

    def _step(self) -> None:
        """Run one update, on the next minibatch, at the learning rate of the current epoch without a schedule."""
        if self.step == (self.epoch + 1) * self.iterations_per_epoch:
            self._begin_next_epoch()
        with closing(self._batches()) as batches:
            captions, features, images = next(batches)
            self._update(captions, features, images, 1.0, check_loss=True)

    def _batches(self) -> Generator[Minibatch, None, None]:
        """Return the remaining minibatches of the current epoch."""
        return epoch_batches(
            self._placed if self._critic is None else self._critic.pictures(self._placed),
            self.batch_size,
            seed=self.seed,
            epoch=self.epoch,
            start=self.step - self.epoch * self.iterations_per_epoch,
            group_by_length=self.group_by_length,
            part=(self.ranks.rank, self.ranks.size),
        )

    def _update(self, captions: Any, features: Array, images: Any, factor: float, *, check_loss: bool) -> None:
        """Compute loss and gradients of a minibatch, and update the parameters.

        With `check_loss`, the loss is checked before the update.
        """
        model, step = self.model, self.step
        dropout = any(getattr(model, name, 0.0) > 0 for name in ("feature_dropout", "output_dropout", "layer_dropout"))
        step_key = fold_key(self.seed, step)
        key = step_key if dropout else None
        features, weights = asarray(features), None
        rewards: list[float] = []
        with checked_data():
            if self._critic is not None:
                captions, features, weights, reward = self._critic.draw(model, features, images, step_key)
                if math.isnan(reward):  # the last update has made probabilities that are not finite
                    self._losses.values.append(math.nan)
                    self._check_losses(self._critic.ranks_without_finite_weights(weights))
                rewards = [reward]
            with nullcontext() if self._critic is None else self._critic.policy(model):
                loss = self._steps.loss(
                    features, captions, factor, whole=not check_loss, dropout_key=key, weights=weights
                )
        on_host = self._losses.append(loss)
        if check_loss:
            self._check_losses()
            self._losses.keep(step, model.params)
        elif on_host:
            self._check_losses()
        self._steps.update(factor)
        self.reward_history += rewards
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
        if self._critic is not None:
            rewards = self.reward_history[self.epoch * self.iterations_per_epoch :]
            record["reward"] = sum(rewards) / len(rewards)
        scores = self._scores(guard)
        if scores is None:
            return False
        record |= scores
        if self._has_best:
            record["best"] = self._keep_if_best(record)
        if self.metric is not None:
            self.metric_history.append(record["metric"])
        if self.validate:
            self.val_loss_history.append(record["val_loss"])
        self._begin_next_epoch()
        report.epoch(record)
        self._save()
        for callback in self.callbacks:
            callback(self, record)
        return True

    def _score_start(self, report: Reporter, guard: InterruptGuard) -> bool:
        """Score the model that self-critical training starts from: the best until an epoch is better.

        False if Ctrl-C came before its score was known.
        """
        scores = self._scores(guard)
        if scores is None:
            return False
        record = {"epoch": 0, "step": 0, **scores}
        record["best"] = self._keep_if_best(record)
        self.start_scores = plain(scores)
        report.epoch(record)
        self._save()
        return True

    def _scores(self, guard: InterruptGuard) -> dict[str, Any] | None:
        """Return the validation loss and the metric of the parameters at hand; None if Ctrl-C came before."""
        scores: dict[str, Any] = {}
        if self.validate:
            loss = loss_per_token(self.model, self._placed, "val", self.batch_size, lambda: guard.requested, self.ranks)
            if loss is None:
                return None
            scores["val_loss"] = loss
        if self.metric is not None:
            metric = self.metric
            scores["metric"] = self.ranks.from_root(lambda: plain(checked_metric(metric(self.model, self.data))))
        return scores

    def _keep_if_best(self, record: Mapping[str, Any]) -> bool:
        """Copy the parameters if the epoch of a record, not yet in the histories, is the best so far."""
        best = self._is_best(record)
        if best:
            self.best_params, self.best_epoch = copy_arrays(self.model.params), record["epoch"]
        return best

    def _begin_next_epoch(self) -> None:
        self.epoch += 1
        for config in self.optim_configs.values():
            config["learning_rate"] *= self.lr_decay

    def _check_losses(self, ranks: list[int] | None = None) -> None:
        """Raise an error for a loss that is not finite; it names the ranks, by default those of the last minibatch."""
        bad = self._losses.first_not_finite()
        if bad is not None:
            loss = self._losses.values[bad]
            self.step = self._losses.go_back(self.step, self.model.params)
            del self.reward_history[self.step :]
            ranks = self._steps.ranks_without_a_finite_loss() if ranks is None else ranks
            raise divergence(bad + 1, loss, self.step, self._learning_rate(), self.clip_norm, ranks)
