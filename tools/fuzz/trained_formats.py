"""The formats of what training writes and reads: models, states, runs, settings; and of tuned kernels."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np

from capgpu.errors import CapgpuError
from tools.fuzz.format import WORDS, Format, comparable, example_data
from tools.fuzz.mutators import (
    JSON,
    JSON_LINES,
    SAFETENSORS,
    TEXT,
    sealed_safetensors,
)

__all__ = ["FORMATS"]


def _model() -> Any:
    from capgpu.model import CaptioningRNN

    return CaptioningRNN({word: i for i, word in enumerate(WORDS)}, 4, 3, 5, "lstm", seed=0)


def _write_model(folder: Path) -> None:
    from capgpu.checkpoint import save_model

    save_model(folder / "model.safetensors", _model())


def _read_model(folder: Path) -> Any:
    from capgpu.checkpoint import load_model

    model = load_model(folder / "model.safetensors")
    if all(np.isfinite(array).all() for array in model.params.values()):
        model.nll(np.zeros((1, model.config["input_dim"]), model.dtype), np.array([[0, 0]], np.int32))
    return comparable((model.config, model.word_to_idx, dict(model.params)))


def _seal_safetensors(folder: Path, name: str) -> None:
    file = folder / name
    if file.suffix == ".safetensors":
        file.write_bytes(sealed_safetensors(file.read_bytes()))


def _solver(folder: Path, resume: bool) -> Any:
    from capgpu.solver import CaptioningSolver

    return CaptioningSolver(
        _model(),
        example_data(),
        update_rule="adam",
        batch_size=3,
        num_epochs=1,
        seed=0,
        verbose=False,
        keep_best=True,
        history=folder / "history.jsonl",
        checkpoint=folder,
        resume=resume,
    )


def _write_state(folder: Path) -> None:
    _solver(folder, False).train()


def _read_state(folder: Path) -> Any:
    solver = _solver(folder, True)
    state = solver.step, solver.epoch, solver.best_epoch, solver.loss_history, solver.val_loss_history
    optimizer = solver._optimizer.state_dict()
    return comparable((state, dict(solver.model.params), dict(solver.best_params), optimizer, solver.metric_history))


def _write_torch(folder: Path) -> None:
    from capgpu.interchange import save_torch_safetensors

    save_torch_safetensors(folder / "torch.safetensors", _model())


def _read_torch(folder: Path) -> Any:
    from capgpu.interchange import load_torch_safetensors

    model = load_torch_safetensors(folder / "torch.safetensors")
    return comparable((model.config, model.word_to_idx, dict(model.params)))


def _write_history(folder: Path) -> None:
    from capgpu.training.history import HistoryWriter

    history = HistoryWriter(folder / "history.jsonl")
    history.write("start", settings={"seed": 0}, step=0)
    for step in range(1, 4):
        history.write("step", step=step, epoch=1, loss=1.5)
        history.write("epoch", step=step, epoch=step, train_loss=1.0, val_loss=2.0)
    history.close()


def _read_history(folder: Path) -> Any:
    from capgpu.training.history import HistoryWriter, read_history, rewind_history

    path = folder / "history.jsonl"
    records = read_history(path)
    rewind_history(path, 2, 2)
    history = HistoryWriter(path)
    history.write("end", step=2)
    history.close()
    return records, read_history(path)


def _write_run(folder: Path) -> None:
    from capgpu.data.datasets import Dataset
    from capgpu.training.run_folder import RunFolder
    from capgpu.training.training_run import make_solver

    settings = {"data": "emoji", "seed": 0, "hidden": 5, "wordvec": 3, "cell": "lstm", "dtype": "float32"}
    settings |= {"epochs": 2, "batch_size": 3, "dropout": 0.0, "learning_rate": 0.01, "schedule": "cosine"}
    settings |= {"update_rule": "adam", "tie_weights": False, "label_smoothing": 0.0, "data_identity": None}
    settings |= {"precision": "float32", "group_by_length": False}
    settings |= {"warmup": 0, "weight_decay": None, "clip_norm": 1.0, "metric": None, "patience": 3}
    settings |= {"layers": 1, "layer_dropout": 0.0, "self_critical": False, "from_run": None}
    settings |= {"samples": 5, "reward": "CIDEr", "baseline": "samples", "sharpen": 2.0}
    run, dataset = RunFolder(folder), Dataset("data", example_data())
    run.start(settings)
    solver = make_solver(run, dataset, settings, resume=False)
    solver.checkpoint, solver.verbose = run.checkpoint, False
    solver.train()


def _read_run(folder: Path) -> Any:
    from capgpu.data.datasets import Dataset
    from capgpu.training.run_folder import RunFolder
    from capgpu.training.run_settings import resumed_settings
    from capgpu.training.training_run import make_solver

    run = RunFolder(folder)
    settings = resumed_settings(run, {}, _RUN_SETTINGS)
    return settings, make_solver(run, Dataset("data", example_data()), settings, resume=True).step


_RUN_SETTINGS = (
    *(
        "data",
        "cell",
        "hidden",
        "wordvec",
        "epochs",
        "batch_size",
        "learning_rate",
        "update_rule",
        "schedule",
        "dropout",
    ),
    *("label_smoothing", "tie_weights", "group_by_length", "seed", "dtype", "precision"),
    *("warmup", "weight_decay", "clip_norm", "metric", "patience", "layers", "layer_dropout"),
    *("self_critical", "from_run", "samples", "reward", "baseline", "sharpen"),
)


def _write_encoder(folder: Path) -> None:
    from capgpu.vision.encoder_config import EncoderConfig
    from capgpu.vision.preprocessing import Preprocessing
    from capgpu.vision.projection import Projection

    projection = Projection(np.zeros(6, np.float32), np.ones((6, 4), np.float32))
    preprocessing = Preprocessing(8, (1.0, 2.0, 3.0), (10.0, 20.0, 30.0))
    EncoderConfig("net.onnx", "0" * 64, "scores", preprocessing, projection, 4).save(folder)


def _read_encoder(folder: Path) -> Any:
    from capgpu.vision.encoder_config import EncoderConfig

    config = EncoderConfig.load(folder)
    if config.projection is not None:
        config.projection.apply(np.zeros((1, len(config.projection.mean)), np.float32))
    return comparable(
        (config.network, config.sha256, config.output, config.preprocessing, config.projection, config.dim)
    )


def _write_tuning(folder: Path) -> None:
    entry = {"lstm_forward float32 H=512 N=64": {"algorithm": "persistent", "units": 8}}
    (folder / "capgpu").mkdir()
    (folder / "capgpu" / "tuning.json").write_text(json.dumps({"format": 2, "devices": {"NVIDIA H100": entry}}))


def _read_tuning(folder: Path) -> Any:
    """Read the cache of tuned kernels: what is damaged counts as absent, with a warning that names the file."""
    import warnings

    from capgpu.kernels.cuda import tuning_cache

    before = os.environ.get("XDG_CACHE_HOME")
    os.environ["XDG_CACHE_HOME"] = str(folder)
    tuning_cache.forget()
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = tuning_cache.stored("NVIDIA H100")
        assert all(str(folder) in str(warning.message) for warning in caught)
    finally:
        tuning_cache.forget()
        if before is None:
            del os.environ["XDG_CACHE_HOME"]
        else:
            os.environ["XDG_CACHE_HOME"] = before
    return found


def _write_config(folder: Path) -> None:
    (folder / "train.toml").write_text(
        'hidden = 512\nlearning-rate = 0.01\n[train]\ncell = "rnn"\ntie-weights = true\n'
    )


def _read_config(folder: Path) -> Any:
    import click

    from capgpu.cli.train import train

    try:
        return train.make_context("train", ["--config", str(folder / "train.toml")]).params
    except click.UsageError as error:
        raise CapgpuError(f"{folder}: {error.message}") from error


FORMATS: dict[str, Format] = {
    "model": Format(_write_model, _read_model, {"model.safetensors": SAFETENSORS}, True, _seal_safetensors),
    "state": Format(_write_state, _read_state, {"training.safetensors": SAFETENSORS}, True, _seal_safetensors),
    "torch": Format(_write_torch, _read_torch, {"torch.safetensors": SAFETENSORS}, True, _seal_safetensors),
    "history": Format(_write_history, _read_history, {"history.jsonl": JSON_LINES}),
    "run": Format(_write_run, _read_run, {"config.json": JSON}),
    "encoder": Format(
        _write_encoder,
        _read_encoder,
        {"encoder.json": JSON, "encoder.safetensors": SAFETENSORS},
        seal=_seal_safetensors,
    ),
    "config": Format(_write_config, _read_config, {"train.toml": TEXT}),
    "tuning": Format(_write_tuning, _read_tuning, {"capgpu/tuning.json": JSON}),
}
