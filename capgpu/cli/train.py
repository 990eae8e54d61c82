"""capgpu train: a run folder with config, history, weights and loss curve."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capgpu.checkpoint import CheckpointError
from capgpu.cli.options import backend_option, use_backend_option
from capgpu.data.arrays import splits_of
from capgpu.data.datasets import DATASETS, Dataset, open_dataset
from capgpu.optim import UPDATE_RULES
from capgpu.optim.schedules import SCHEDULES
from capgpu.training.run_folder import RunFolder

if TYPE_CHECKING:
    from capgpu.solver import CaptioningSolver

__all__ = ["train"]

_COUNT = click.IntRange(min=1)
#: Options that say where and how to run, not what: they are no settings of the run.
_NOT_SETTINGS = ("out", "backend", "resume", "force")
#: Settings that runs of earlier versions lack, and how they were trained.
_NEWER = {"tie_weights": False, "label_smoothing": 0.0, "group_by_length": False}


class _Data(click.ParamType):  # type: ignore[type-arg] # generic from click 8.3 on
    """A data set's name, or a folder, which a run remembers by its absolute path."""

    name = "NAME|DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in DATASETS:
            return str(value)
        if not Path(value).is_dir():
            self.fail(f"{value!r} is neither one of {', '.join(DATASETS)} nor a folder.", param, ctx)
        return str(Path(value).resolve())


class _FiniteRange(click.FloatRange):
    """A range that, unlike click's, does not hold NaN, nor infinity where it has no upper end."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value} is no finite number.", param, ctx)
        return number


@click.command()
@click.option(
    "--data",
    type=_Data(),
    default="emoji",
    help="What to learn from: emoji, a prepared folder, or that of the cs231n course's COCO set.",
)
@click.option("--out", type=click.Path(path_type=Path), help="The run folder.  [default: runs/DATA-CELL]")
@click.option("--cell", type=click.Choice(["lstm", "rnn"]), default="lstm", help="The recurrent cell.")
@click.option("--hidden", type=_COUNT, default=256, help="Length of the hidden state.")
@click.option("--wordvec", type=_COUNT, default=256, help="Length of a word vector.")
@click.option("--epochs", type=_COUNT, default=60, help="Times to go through the training captions.")
@click.option("--batch-size", type=_COUNT, default=64, help="Captions in a minibatch.")
@click.option(
    "--learning-rate",
    type=_FiniteRange(min=0, min_open=True),
    default=3e-3,
    help="Where the schedule starts.",
)
@click.option("--update-rule", type=click.Choice(list(UPDATE_RULES)), default="adam", help="How to update.")
@click.option("--schedule", type=click.Choice(list(SCHEDULES)), default="cosine", help="Of the learning rate.")
@click.option(
    "--dropout",
    type=_FiniteRange(0, 1, max_open=True),
    default=0.3,
    help="On the features and before the vocabulary.",
)
@click.option(
    "--label-smoothing",
    type=_FiniteRange(0, 1, max_open=True),
    default=0.0,
    help="Part of a true word's probability that is spread over all words.",
)
@click.option("--tie-weights", is_flag=True, help="Score words by their own vectors; needs --wordvec = --hidden.")
@click.option("--group-by-length", is_flag=True, help="Put captions of like lengths into one minibatch.")
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of parameters, minibatches and dropout.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", help="Of the parameters.")
@backend_option
@click.option("--resume", is_flag=True, help="Go on with the unfinished run in --out.")
@click.option("--force", is_flag=True, help="Overwrite the run in --out.")
@click.pass_context
def train(ctx: click.Context, /, **options: Any) -> None:
    """Train a captioner and write a run folder.

    The folder gets config.json, history.jsonl, model.safetensors (the parameters of the epoch with the lowest
    validation loss), loss.png, summary.json, and checkpoint/ to resume from. Ctrl-C stops after the step at
    hand; --resume goes on from there and ends with the same bits.
    """
    run = RunFolder(options["out"] or Path("runs", f"{Path(options['data']).name}-{options['cell']}"))
    settings = {name: value for name, value in options.items() if name not in _NOT_SETTINGS}
    if options["resume"]:
        if options["force"]:
            raise click.UsageError("--resume goes on with a run and --force throws it away: give one of them.")
        settings = _resumed(ctx, run, settings)
    else:
        run.check_new(options["force"])
    use_backend_option(options["backend"])
    dataset = open_dataset(settings["data"])
    if "val" not in splits_of(dataset.data):
        raise ValueError(
            f"{dataset.name} has no split val, which tells the best epoch: prepare it with --val above 0, or with "
            "such a split."
        )
    if options["resume"]:
        _check_same_data(run, dataset, settings)
    solver = _solver(run, dataset, settings, options["resume"])
    # all that can be refused has been: only now may files of an earlier run go
    if not options["resume"]:
        run.start(settings | {"data_identity": dataset.identity})
        run.keep_encoder(dataset.encoder_folder)
        solver.checkpoint = run.checkpoint
    _train(run, solver, settings)


def _resumed(ctx: click.Context, run: RunFolder, settings: dict[str, Any]) -> dict[str, Any]:
    """Take the settings of the run to go on with, and refuse options that contradict them."""
    stored = {**_NEWER, **run.settings()}
    missing = [name for name in settings if name not in stored]
    if missing:
        raise CheckpointError(f"{run.config} is damaged: it has no {', '.join(missing)}. Start over with --force.")
    if run.summary.exists():
        raise ValueError(f"the run in {run.path} has finished: there is nothing to resume.")
    for name, value in settings.items():
        given = ctx.get_parameter_source(name) is click.core.ParameterSource.COMMANDLINE
        if given and value != stored[name]:
            option = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"{option} is {value}, but the run in {run.path} was started with {stored[name]}. A "
                f"resumed run keeps its settings: leave {option} out."
            )
    return stored


def _check_same_data(run: RunFolder, dataset: Dataset, settings: dict[str, Any]) -> None:
    """Refuse to go on with a run on data that have changed since it was started."""
    if dataset.identity != settings.get("data_identity"):
        raise ValueError(
            f"the data in {dataset.name} are not those that the run in {run.path} was started with: they have changed "
            "since. Start over with --force, or name another folder with --out."
        )


def _solver(run: RunFolder, dataset: Dataset, settings: dict[str, Any], resume: bool) -> CaptioningSolver:
    from capgpu.model import CaptioningRNN
    from capgpu.solver import CaptioningSolver

    model = CaptioningRNN(
        dataset.data["word_to_idx"],
        input_dim=dataset.features("train").shape[1],
        wordvec_dim=settings["wordvec"],
        hidden_dim=settings["hidden"],
        cell_type=settings["cell"],
        dtype=settings["dtype"],
        seed=settings["seed"],
        feature_dropout=settings["dropout"],
        output_dropout=settings["dropout"],
        tie_weights=settings["tie_weights"],
        label_smoothing=settings["label_smoothing"],
    )
    return CaptioningSolver(
        model,
        dataset.data,
        update_rule=settings["update_rule"],
        optim_config={"learning_rate": settings["learning_rate"]},
        batch_size=settings["batch_size"],
        num_epochs=settings["epochs"],
        print_every=50,
        seed=settings["seed"],
        schedule=settings["schedule"],
        group_by_length=settings["group_by_length"],
        keep_best=True,
        history=run.history,
        checkpoint=run.checkpoint if resume else None,
        resume=resume,
    )


def _train(run: RunFolder, solver: CaptioningSolver, settings: dict[str, Any]) -> None:
    from capgpu.backend import current_backend
    from capgpu.checkpoint import save_model
    from capgpu.kernels import compile_seconds
    from capgpu.training.reporting import clock

    model = solver.model
    size = sum(array.size for array in model.params.values())
    backend = current_backend().name
    click.echo(
        f"{settings['cell'].upper()} with {size:,} parameters, "
        f"{len(solver.data['train_captions']):,} training captions, backend {backend}"
    )
    start, compiling = clock(), compile_seconds()
    solver.train()
    seconds, compiling = clock() - start, compile_seconds() - compiling
    if solver.interrupted:
        click.echo(f"Go on with: capgpu train --resume --out {run.path}", err=True)
        raise click.Abort
    save_model(run.model, model)
    _plot(run, solver, settings)
    run.finish(
        {
            "epochs": solver.epoch,
            "steps": solver.step,
            "best epoch": solver.best_epoch,
            "validation loss per word": solver.best_val_loss,
            "seconds": round(seconds, 1),
            "backend": backend,
        }
    )
    compiled = f" and {compiling:.1f} s of compiling kernels" if compiling else ""
    click.echo(
        f"Trained in {seconds:.1f} s{compiled}. Best epoch: {solver.best_epoch}, {solver.best_val_loss:.4f} "
        f"nats a word on the validation split.\nRun folder: {run.path}"
    )


def _plot(run: RunFolder, solver: CaptioningSolver, settings: dict[str, Any]) -> None:
    from capgpu.report.loss_curve import plot_loss

    captions = solver.data["train_captions"]
    # the solver's loss is a sum over words for each caption; validation counts by word
    words_per_caption = (captions[:, 1:] != solver.model.word_to_idx["<NULL>"]).sum() / len(captions)
    plot_loss(
        run.plot,
        [
            (step / solver.iterations_per_epoch, loss / words_per_caption)
            for step, loss in enumerate(solver.loss_history, start=1)
        ],
        list(enumerate(solver.val_loss_history, start=1)),
        title=f"{settings['cell'].upper()}, {settings['hidden']} units, on {Path(settings['data']).name}",
        training_label="training, with dropout" if settings["dropout"] > 0 else "training",
    )
