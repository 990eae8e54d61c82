"""A training run from settings: checks before it starts, solver, training, and the files it leaves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from capgpu.captioner import announce_decoding
from capgpu.checkpoint import CheckpointError, save_model
from capgpu.data.arrays import splits_of
from capgpu.data.datasets import Dataset
from capgpu.distributed import Communicator, communicator
from capgpu.dtypes import floating_dtype
from capgpu.errors import InvalidValueError
from capgpu.evaluation.caption_metric import CaptionMetric
from capgpu.layers.cells import CELLS
from capgpu.model import CaptioningRNN
from capgpu.parameters import axes_remedy, parameter_shapes
from capgpu.solver import CaptioningSolver
from capgpu.training.callbacks import EarlyStopping
from capgpu.training.history import rewind_history
from capgpu.training.run_folder import RunFolder
from capgpu.training.run_settings import parse_reward
from capgpu.training.self_critical import SelfCritical, sharpen
from capgpu.training.state import STATE_FILE
from capgpu.vocabulary import NULL

__all__ = [
    "TrainingResult",
    "check_dataset",
    "check_same_data",
    "make_solver",
    "train_run",
]

#: The entries of a model's configuration that its parameters follow from.
_SIZES = ("cell_type", "input_dim", "wordvec_dim", "hidden_dim", "n_layers", "tie_weights", "dtype")


@dataclass(frozen=True)
class TrainingResult:
    """The outcome of `train_run`.

    Attributes
    ----------
    finished : bool
        False if training was interrupted: the run can be resumed.
    seconds, compile_seconds : float
        Time of training, and of compiling kernels in addition.
    """

    finished: bool
    seconds: float
    compile_seconds: float


def check_dataset(run: RunFolder, dataset: Dataset, settings: Mapping[str, Any], *, resume: bool) -> None:
    """Check that a data set can be trained on, and is unchanged if a run is resumed.

    Parameters
    ----------
    run : RunFolder
        The run.
    dataset : Dataset
        The data set.
    settings : mapping
        The settings of the run.
    resume : bool
        Whether the run is resumed.

    Raises
    ------
    ValueError
        If the data set has no split ``val``, or is not the one that the run was started with.
    """
    if "val" not in splits_of(dataset.data):
        raise InvalidValueError(
            f"{dataset.name}: expected a split val, by which the best epoch is chosen, got "
            f"{', '.join(splits_of(dataset.data))}. Prepare the data with --val above 0, or with such a split."
        )
    if resume and dataset.identity != settings.get("data_identity"):
        raise InvalidValueError(
            f"{dataset.name}: expected the data that the run in {run.path} was started with, got data that have "
            "changed since. Start over with --force, or name another folder."
        )


def check_same_data(ranks: Communicator, dataset: Dataset) -> None:
    """Check that all ranks have opened the same data.

    Parameters
    ----------
    ranks : Communicator
        The ranks, which all call this.
    dataset : Dataset
        The data set.

    Raises
    ------
    ValueError
        Naming the ranks whose data differ from those of rank 0.
    """
    identities = ranks.gather(dataset.identity)
    others = [str(rank) for rank, identity in enumerate(identities) if identity != identities[0]]
    if others:
        raise InvalidValueError(
            f"{dataset.name}: expected the same data on all ranks, got others on rank {', '.join(others)} than on rank "
            "0. Copy the folder to all machines again."
        )


def make_solver(run: RunFolder, dataset: Dataset, settings: Mapping[str, Any], *, resume: bool) -> CaptioningSolver:
    """Create the model and the solver of a run.

    Parameters
    ----------
    run : RunFolder
        The run, whose history the solver writes.
    dataset : Dataset
        The data set.
    settings : mapping
        The settings of ``capgpu train``.
    resume : bool
        Whether to continue from the run's checkpoint.

    Returns
    -------
    CaptioningSolver
        Without a checkpoint folder unless `resume`: nothing is written before training starts.

    Raises
    ------
    ValueError, CheckpointError
        For settings that contradict each other, or a checkpoint that is missing or damaged.
    """
    optim_config = {"learning_rate": settings["learning_rate"]}
    if settings["weight_decay"] is not None:
        if settings["update_rule"] != "adamw":
            raise InvalidValueError(
                f"--weight-decay: expected the update rule adamw, got {settings['update_rule']}. Add --update-rule "
                "adamw, or omit --weight-decay."
            )
        optim_config["weight_decay"] = settings["weight_decay"]
    if settings["layer_dropout"] > 0 and settings["layers"] == 1:
        raise InvalidValueError(
            f"--layer-dropout: expected 0 with one layer, got {settings['layer_dropout']}. Add --layers above 1, or "
            "omit --layer-dropout."
        )
    metric = settings["metric"]
    self_critical = None
    if settings["self_critical"]:
        self_critical = SelfCritical(
            samples=settings["samples"], reward=parse_reward(settings["reward"]), baseline=settings["baseline"]
        )
    callbacks = []
    if settings["patience"] is not None:
        callbacks.append(EarlyStopping(settings["patience"], monitor=metric or "val_loss"))
    try:
        if resume:
            _check_sizes(run, dataset, settings)
        model = _make_model(dataset, settings)
    except (ValueError, TypeError) as error:
        if not resume:
            raise
        raise CheckpointError(f"{run.config} is damaged: {error}") from error
    if settings["from_run"] is not None:

        def start() -> None:
            if not (resume and (run.checkpoint / STATE_FILE).is_file()):
                _start_from(RunFolder(settings["from_run"]), dataset, model)
                sharpen(model, settings["sharpen"])

        communicator().from_root(start)  # training shares the parameters; other machines may not have the run
    return CaptioningSolver(
        model,
        dataset.data,
        update_rule=settings["update_rule"],
        optim_config=optim_config,
        batch_size=settings["batch_size"],
        num_epochs=settings["epochs"],
        print_every=50,
        seed=settings["seed"],
        schedule=settings["schedule"],
        warmup=settings["warmup"],
        clip_norm=settings["clip_norm"],
        metric=CaptionMetric([metric], tokenize=dataset.tokenize) if metric else None,
        callbacks=callbacks,
        group_by_length=settings["group_by_length"],
        keep_best=True,
        history=run.history,
        checkpoint=run.checkpoint if resume else None,
        resume=resume,
        self_critical=self_critical,
        best_by=metric if self_critical is not None and metric else "val_loss",
    )


def _start_from(start: RunFolder, dataset: Dataset, model: CaptioningRNN) -> None:
    """Give a model the parameters of a run."""
    found = start.load(dataset)
    wrong = next((name for name in _SIZES if found.config[name] != model.config[name]), None)
    if wrong is not None:
        raise CheckpointError(
            f"{start.config} is damaged: expected the sizes of the model in {start.model}, with {wrong} "
            f"{found.config[wrong]}, got {model.config[wrong]}."
        )
    model.params.update(found.params)


def _make_model(dataset: Dataset, settings: Mapping[str, Any]) -> CaptioningRNN:
    features = dataset.features("train")
    remedy = axes_remedy(features.ndim, CELLS[settings["cell"]].attends)
    if remedy:
        raise InvalidValueError(
            f"--cell: expected one that reads features of shape {features.shape}, got {settings['cell']}.{remedy}"
        )
    return CaptioningRNN(
        dataset.data["word_to_idx"],
        input_dim=features.shape[-1],
        wordvec_dim=settings["wordvec"],
        hidden_dim=settings["hidden"],
        cell_type=settings["cell"],
        dtype=settings["dtype"],
        seed=settings["seed"],
        feature_dropout=settings["dropout"],
        output_dropout=settings["dropout"],
        tie_weights=settings["tie_weights"],
        label_smoothing=settings["label_smoothing"],
        precision=settings["precision"],
        n_layers=settings["layers"],
        layer_dropout=settings["layer_dropout"],
    )


def _check_sizes(run: RunFolder, dataset: Dataset, settings: Mapping[str, Any]) -> None:
    """Check that a model is no larger than the run's checkpoint, before it is made."""
    shapes = parameter_shapes(
        CELLS[settings["cell"]],
        len(dataset.data["word_to_idx"]),
        dataset.features("train").shape[-1],
        settings["wordvec"],
        settings["hidden"],
        settings["tie_weights"],
        settings["layers"],
    )
    size = floating_dtype(settings["dtype"]).itemsize * sum(map(math.prod, shapes.values()))
    file = run.checkpoint / STATE_FILE
    if file.is_file() and size > file.stat().st_size:
        raise CheckpointError(
            f"{run.config}: expected the sizes of the model in {file}, got those of a model of {size:,} bytes, larger "
            "than that file. Train again with --force."
        )


def train_run(run: RunFolder, solver: CaptioningSolver, settings: Mapping[str, Any]) -> TrainingResult:
    """Train, and write model, loss curve and summary unless training is interrupted.

    Parameters
    ----------
    run : RunFolder
        The run.
    solver : CaptioningSolver
        As from `make_solver`.
    settings : mapping
        The settings of the run.

    Returns
    -------
    TrainingResult
        Times, and whether training finished.

    Raises
    ------
    FloatingPointError
        If the loss becomes NaN or infinite.
    OSError
        If a file cannot be written.
    """
    from capgpu.backend import current_backend
    from capgpu.kernels import compile_seconds
    from capgpu.training.reporting import clock

    announce_decoding(solver.model.params)  # whoever trains will have captions written
    if solver.step == 0:  # after a process that was killed before it saved a state
        solver.ranks.from_root(lambda: rewind_history(run.history, 0, 0))
    start, compiling = clock(), compile_seconds()
    try:
        solver.train()
    except KeyboardInterrupt:
        if not solver.interrupted:
            raise  # a second Ctrl-C: there may be no state to resume from
    seconds, compiling = clock() - start, compile_seconds() - compiling

    def finish() -> None:
        save_model(run.model, solver.model)
        _plot_losses(run, solver, settings)
        run.finish(
            {
                "epochs": solver.epoch,
                "steps": solver.step,
                "best_epoch": solver.best_epoch,
                "val_loss": solver.best_val_loss,
                "seconds": round(seconds, 1),
                "backend": current_backend().name,
            }
        )

    if not solver.interrupted:
        solver.ranks.from_root(finish)
    return TrainingResult(not solver.interrupted, seconds, compiling)


def _plot_losses(run: RunFolder, solver: CaptioningSolver, settings: Mapping[str, Any]) -> None:
    from capgpu.report.loss_curve import plot_loss

    captions = solver.data["train_captions"]
    # the solver's loss is a sum over the words of a caption, the validation loss a mean over words
    words_per_caption = (captions[:, 1:] != solver.model.word_to_idx[NULL]).sum() / len(captions)
    plot_loss(
        run.plot,
        [
            (step / solver.iterations_per_epoch, loss / words_per_caption)
            for step, loss in enumerate(solver.loss_history, start=1)
        ],
        list(enumerate(solver.val_loss_history, start=1)),
        title=f"{settings['cell'].upper()}, {settings['hidden']} units, on {Path(settings['data']).name}",
        training_label="training, with dropout"
        if settings["dropout"] > 0 or settings["layer_dropout"] > 0
        else "training",
        rewards=[
            (step / solver.iterations_per_epoch, reward) for step, reward in enumerate(solver.reward_history, start=1)
        ],
    )
