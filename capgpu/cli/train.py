"""capgpu train: train a captioner and write a run folder."""

from __future__ import annotations

import os
import platform
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from capgpu.cli.command import Command, config_option
from capgpu.cli.console import echo
from capgpu.cli.options import COMPUTE_GROUP, Count, LocalPath, Number, backend_option, use_backend_option
from capgpu.data.datasets import DATASETS, open_dataset
from capgpu.distributed import communicator
from capgpu.folder_lock import folder_lock
from capgpu.layers.cells import CELLS
from capgpu.metrics.coco import METRIC_NAMES
from capgpu.optim import UPDATE_RULES
from capgpu.optim.schedules import SCHEDULES
from capgpu.training.run_folder import RunFolder

if TYPE_CHECKING:
    from capgpu.solver import CaptioningSolver

__all__ = ["train"]

#: Options that are not settings of the run: where and how to run.
_NOT_SETTINGS = ("run_argument", "out", "backend", "resume", "force")
_SELF_CRITICAL_SETTINGS = ("self_critical", "from_run", "samples", "reward", "baseline", "sharpen")
#: Settings with other defaults in self-critical training.
_SELF_CRITICAL_DEFAULTS = {
    "epochs": 10,
    "learning_rate": 1e-4,
    "dropout": 0.0,
    "layer_dropout": 0.0,
    "label_smoothing": 0.0,
    "metric": "CIDEr",
}
_GIVEN = (click.core.ParameterSource.COMMANDLINE, click.core.ParameterSource.DEFAULT_MAP)

_GROUPS = {
    "Data and run folder": ("--data", "--out", "--resume", "--force", "--config"),
    "Model": ("--cell", "--hidden", "--layers", "--wordvec", "--tie-weights", "--dtype", "--precision"),
    "Training": (
        "--epochs",
        "--batch-size",
        "--group-by-length",
        "--update-rule",
        "--learning-rate",
        "--schedule",
        "--warmup",
        "--weight-decay",
        "--clip-norm",
        "--seed",
    ),
    "Regularization": ("--dropout", "--layer-dropout", "--label-smoothing"),
    "Validation": ("--metric", "--patience"),
    "Self-critical training": ("--self-critical", "--from", "--samples", "--reward", "--baseline", "--sharpen"),
    **COMPUTE_GROUP,
}
#: Settings that a self-critical run takes from the run that it starts from.
_MODEL_SETTINGS = ("data", *(option.strip("-").replace("-", "_") for option in _GROUPS["Model"]))
_EXAMPLES = (
    ("Train on the captioned emoji that come with capgpu", "capgpu train runs/demo"),
    ("Train a wider LSTM on a prepared folder", "capgpu train runs/wide --data data/photos --hidden 512 --wordvec 512"),
    (
        "Follow CIDEr, and stop once it has not improved for 5 epochs",
        "capgpu train runs/best --metric CIDEr --patience 5",
    ),
    ("Train a model that looks at parts of a picture", "capgpu train runs/look --data emoji-grid --cell attention"),
    (
        "Train a finished run on, for its captions' CIDEr",
        "capgpu train runs/better --self-critical --from runs/demo",
    ),
    ("Continue after Ctrl-C", "capgpu train runs/demo --resume"),
    ("Train in 4 processes, on one machine or several", "mpiexec -n 4 capgpu train runs/demo"),
    ("Read the options from a file", "capgpu train runs/wide --config wide.toml"),
)


class _Data(click.ParamType):  # type: ignore[type-arg] # generic from click 8.3 on
    """The name of a data set, or the absolute path of a folder."""

    name = "NAME|DIR"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if value in DATASETS:
            return str(value)
        if not Path(value).is_dir():
            self.fail(f"expected {', '.join(DATASETS)} or an existing folder, got {value!r}.", param, ctx)
        return str(Path(value).resolve())


@click.command(cls=Command, groups=_GROUPS, examples=_EXAMPLES)
@click.argument("run_argument", type=LocalPath(path_type=Path), required=False, metavar="[RUN]")
@config_option
@click.option(
    "--data",
    type=_Data(),
    default="emoji",
    help="Data set: emoji, emoji-grid, a prepared folder, or the folder of the cs231n course's COCO set.",
)
@click.option(
    "--out",
    type=LocalPath(path_type=Path),
    help="RUN, as an option.  [default: runs/DATA-CELL; with --from RUN, runs/RUN-self-critical]",
)
@click.option(
    "--cell",
    type=click.Choice(list(CELLS)),
    default="lstm",
    help="Recurrent cell; attention is an LSTM that looks at parts of a picture, for data prepared with --grid.",
)
@click.option("--hidden", type=Count(), default=256, help="Size of the hidden state.")
@click.option("--layers", type=Count(1, 64), default=1, help="Recurrent layers, one above the other.")
@click.option("--wordvec", type=Count(), default=256, help="Size of a word vector.")
@click.option("--epochs", type=Count(), default=60, help="Number of epochs.")
@click.option("--batch-size", type=Count(), default=64, help="Captions per minibatch.")
@click.option(
    "--learning-rate",
    type=Number(min=0, min_open=True),
    default=3e-3,
    help="Initial learning rate.",
)
@click.option("--update-rule", type=click.Choice(list(UPDATE_RULES)), default="adam", help="Update rule.")
@click.option("--schedule", type=click.Choice(list(SCHEDULES)), default="cosine", help="Learning-rate schedule.")
@click.option("--warmup", type=Count(0), default=0, help="Steps over which the learning rate first rises.")
@click.option(
    "--weight-decay",
    type=Number(min=0),
    help="Decay of the parameters, per step times the learning rate; needs --update-rule adamw.  [default: 0.01 there]",
)
@click.option(
    "--clip-norm",
    type=Number(min=0, min_open=True),
    help="Largest norm of all gradients together; larger ones are scaled down.",
)
@click.option(
    "--dropout",
    type=Number(0, 1, max_open=True),
    default=0.3,
    help="Dropout rate of the features and of the hidden states before the vocabulary projection.",
)
@click.option(
    "--layer-dropout",
    type=Number(0, 1, max_open=True),
    default=0.0,
    help="Dropout rate of the hidden states that the next layer reads; needs --layers above 1.",
)
@click.option(
    "--label-smoothing",
    type=Number(0, 1, max_open=True),
    default=0.0,
    help="Part of the target probability that is distributed over all words.",
)
@click.option("--tie-weights", is_flag=True, help="Use the word vectors as output weights; needs --wordvec = --hidden.")
@click.option("--group-by-length", is_flag=True, help="Put captions of similar length into one minibatch.")
@click.option("--seed", type=Count(0), default=0, help="Seed of parameters, minibatches and dropout.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", help="Dtype of the parameters.")
@click.option(
    "--precision",
    type=click.Choice(["float32", "bf16"]),
    default="float32",
    help="bf16 rounds the factors of matrix products to bfloat16; needs --dtype float32.",
)
@click.option(
    "--metric",
    type=click.Choice(METRIC_NAMES),
    help="Score captions of 200 pictures of the split val by this metric after each epoch.",
)
@click.option(
    "--patience",
    type=Count(),
    help="Stop after N epochs in which the --metric, or without one the validation loss, has not improved.",
)
@click.option(
    "--self-critical",
    is_flag=True,
    help="Train on the scores of captions that the model draws; needs --from. Other defaults then: --epochs 10, "
    "--learning-rate 1e-4, --dropout 0, --metric CIDEr, by which the best epoch is chosen.",
)
@click.option(
    "--from",
    "from_run",
    type=LocalPath(path_type=Path),  # rank 0 alone needs to have it
    metavar="RUN",
    help="The run whose model and data self-critical training starts from.",
)
@click.option("--samples", type=Count(), default=5, help="Captions drawn for each picture.")
@click.option(
    "--reward",
    default="CIDEr",
    metavar="SCORES",
    help="CIDEr, BLEU-4, or a weighted sum: CIDEr=1,BLEU-4=0.5.",
)
@click.option(
    "--baseline",
    type=click.Choice(["samples", "greedy"]),
    default="samples",
    help="A caption's reward is compared with the mean of the picture's other captions, or with its greedy caption.",
)
@click.option(
    "--sharpen",
    type=Number(min=0, min_open=True),
    default=2.0,
    help="Factor of the logits at the start: drawn captions become more like greedy ones. 1 with --tie-weights.",
)
@backend_option
@click.option("--resume", is_flag=True, help="Continue the unfinished run in RUN.")
@click.option("--force", is_flag=True, help="Overwrite the run in RUN.")
@click.pass_context
def train(ctx: click.Context, /, **options: Any) -> None:
    """Train a captioner and write a run folder.

    RUN, the folder, gets config.json, history.jsonl, model.safetensors (the parameters of the epoch with the lowest
    validation loss; with --self-critical, of that with the best --metric), loss.png, summary.json, and checkpoint/ to
    resume from. Ctrl-C stops after the current step; --resume continues from there and gives the same bits as an
    uninterrupted run.

    Under mpiexec -n N, or srun, N processes compute each minibatch together, with the results of one.
    """
    from capgpu.training.run_settings import resumed_settings
    from capgpu.training.training_run import check_dataset, check_same_data, make_solver

    if options["run_argument"] is not None and options["out"] is not None:
        raise click.UsageError(f"expected one run folder, got {options['run_argument']} and --out {options['out']}.")
    named = options["run_argument"] or options["out"]
    start: Path | None = options["from_run"]
    default = f"{Path(options['data']).name}-{options['cell']}" if start is None else f"{start.name}-self-critical"
    run = RunFolder(named or Path("runs", default))
    settings = {name: value for name, value in options.items() if name not in _NOT_SETTINGS}
    settings["from_run"] = None if start is None else str(start.resolve())
    resume: bool = options["resume"]
    if resume and options["force"]:
        raise click.UsageError("--resume continues a run and --force deletes it: give one of them.")
    ranks = communicator()

    def begin() -> tuple[dict[str, Any], bool]:
        lock.enter_context(folder_lock(run.path))
        if not resume:
            if any(_is_given(ctx, name) for name in _SELF_CRITICAL_SETTINGS):
                _complete_self_critical(ctx, run, settings)
            run.check_new(options["force"])
            return settings, resume
        given = {name: value for name, value in settings.items() if _is_given(ctx, name)}
        return resumed_settings(run, given, tuple(settings)), resume

    def write_settings() -> None:
        # all checks have passed: only now are files of an earlier run removed
        if not resume:
            run.start(settings | {"data_identity": dataset.identity})
        run.keep_encoder(dataset.encoder_folder)  # a process may have been killed before it did

    with ExitStack() as lock:
        settings, resume = ranks.from_root(begin)
        use_backend_option(options["backend"])
        dataset = open_dataset(settings["data"])
        check_same_data(ranks, dataset)
        check_dataset(run, dataset, settings, resume=resume)
        solver = make_solver(run, dataset, settings, resume=resume)
        ranks.from_root(write_settings)
        solver.checkpoint = run.checkpoint
        _train(run, solver, settings)


def _complete_self_critical(ctx: click.Context, run: RunFolder, settings: dict[str, Any]) -> None:
    """Complete the settings of self-critical training by those of the run that it starts from."""
    from capgpu.training.run_settings import stored_settings

    if not settings["self_critical"] or settings["from_run"] is None:
        raise click.UsageError(
            "expected --self-critical with --from RUN; --samples, --reward, --baseline and --sharpen need both."
        )
    start = RunFolder(settings["from_run"])
    if run.path.resolve() == start.path:
        raise click.UsageError(f"expected another folder than that of --from, got {run.path} for both.")
    stored = stored_settings(start, _MODEL_SETTINGS)
    for name in _MODEL_SETTINGS:
        value = stored[name]
        if _is_given(ctx, name) and settings[name] != value:
            raise click.UsageError(
                f"--{name.replace('_', '-')}: expected {value}, as in the run {start.path}, got {settings[name]}. Omit "
                "it."
            )
        settings[name] = value
    if settings["tie_weights"] and not _is_given(ctx, "sharpen"):
        settings["sharpen"] = 1.0
    settings |= {name: value for name, value in _SELF_CRITICAL_DEFAULTS.items() if not _is_given(ctx, name)}


def _is_given(ctx: click.Context, name: str) -> bool:
    return ctx.get_parameter_source(name) in _GIVEN


def _layers(settings: dict[str, Any]) -> str:
    return "" if settings["layers"] == 1 else f" of {settings['layers']} layers"


def _train(run: RunFolder, solver: CaptioningSolver, settings: dict[str, Any]) -> None:
    from capgpu.backend import current_backend
    from capgpu.training.training_run import train_run

    size = sum(array.size for array in solver.model.params.values())
    ranks = solver.ranks
    # mpiexec names a process that was killed by its number only
    processes = ranks.gather(f"{os.getpid()} on {platform.node()}")
    if ranks.rank == 0:
        echo(
            f"{settings['cell'].upper()}{_layers(settings)} with {size:,} parameters, "
            f"{len(solver.data['train_captions']):,} training captions, backend {current_backend().name}"
        )
    if ranks.rank == 0 and ranks.size > 1:
        echo(f"{ranks.size} ranks, processes {', '.join(processes)}")
    result = train_run(run, solver, settings)
    if not result.finished:
        if ranks.rank == 0:
            echo(f"Resume with: capgpu train {run.path} --resume", err=True)
        raise click.Abort
    if ranks.rank > 0:
        return
    compiled = f" and {result.compile_seconds:.1f} s of compiling kernels" if result.compile_seconds else ""
    score = None if solver.best_by == "val_loss" else solver.best_score
    by, reached = ("", "") if score is None else (f" by {solver.best_by}", f"{solver.best_by} {score:.3f} and ")
    best = str(solver.best_epoch) if solver.best_epoch else "none, the start is kept"
    echo(
        f"Trained in {result.seconds:.1f} s{compiled}. Best epoch{by}: {best}, {reached}"
        f"{solver.best_val_loss:.4f} nats per word on the validation split.\nRun folder: {run.path}"
    )
