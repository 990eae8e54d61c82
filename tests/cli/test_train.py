"""capgpu train: a run folder, its settings, and runs that are stopped, resumed or overwritten."""

from __future__ import annotations

import json
import re
import signal
from pathlib import Path

import click
import numpy as np
import pytest
from PIL import Image

import capgpu.training.run_folder
from capgpu.checkpoint import load_model, load_weights
from capgpu.cli.train import train
from capgpu.data import emoji
from capgpu.folder_lock import folder_lock
from capgpu.solver import CaptioningSolver
from capgpu.training.history import read_history
from capgpu.training.run_folder import RunFolder
from oracles.commands import TINY, done, refused, run


def trained(folder: Path, *args: object) -> Path:
    result = run("train", "--out", folder, *TINY, *args)
    assert result.exit_code == 0, result.output
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def weight_bits(folder: Path) -> dict[str, bytes]:
    return {name: array.tobytes() for name, array in load_weights(folder / "model.safetensors")[0].items()}


def test_a_run_folder_holds_settings_history_weights_and_curve(finished: Path) -> None:
    settings = json.loads((finished / "config.json").read_text())["settings"]
    assert (settings["cell"], settings["hidden"], settings["epochs"], settings["seed"]) == ("lstm", 8, 2, 3)
    kinds = [record["kind"] for record in read_history(finished / "history.jsonl")]
    assert kinds[0] == "start"
    assert kinds.count("epoch") == 2
    assert kinds[-1] == "end"
    model = load_model(finished)
    assert model.params["Wh"].shape == (8, 32)
    with Image.open(finished / "loss.png") as picture:
        assert picture.size == (1200, 750)
    summary = json.loads((finished / "summary.json").read_text())
    assert summary["epochs"] == 2
    assert 0 < summary["val_loss"] < np.log(len(model.word_to_idx))


def test_the_weights_are_those_of_the_best_epoch(finished: Path) -> None:
    summary = json.loads((finished / "summary.json").read_text())
    solver = CaptioningSolver(load_model(finished), emoji.load(), verbose=False)
    assert solver.evaluate("val") == pytest.approx(summary["val_loss"], rel=1e-6)


def test_the_same_seed_trains_the_same_weights(finished: Path, tmp_path: Path) -> None:
    again = trained(tmp_path / "again")
    assert weight_bits(again) == weight_bits(finished)


def test_settings_reach_model_and_solver(tmp_path: Path) -> None:
    folder = trained(
        tmp_path / "run", "--cell", "gru", "--dtype", "float64", "--dropout", "0", "--update-rule", "sgd",
        "--layers", "2", "--layer-dropout", "0.1",
        "--schedule", "constant", "--learning-rate", "0.5", "--epochs", "1", "--group-by-length",
    )  # fmt: skip
    model = load_model(folder)
    assert (model.cell_type, model.n_layers, model.layer_dropout) == ("gru", 2, 0.1)
    assert (model.dtype, model.feature_dropout, model.output_dropout) == (
        np.float64,
        0,
        0,
    )
    start = read_history(folder / "history.jsonl")[0]
    assert (start["update_rule"], start["schedule"], start["batch_size"]) == ("sgd", "constant", 600)
    assert start["optim_config.learning_rate"] == 0.5
    assert start["group_by_length"] is True


def test_a_finished_run_is_not_overwritten(finished: Path) -> None:
    before = contents(finished)
    refused(run("train", "--out", finished, *TINY), "--force")
    assert contents(finished) == before


def test_a_run_that_another_process_writes_is_refused_and_kept(finished: Path) -> None:
    before = contents(finished)
    with folder_lock(finished):
        for option in ("--force", "--resume"):
            # before the run is looked at, which the other process is writing
            refused(run("train", "--out", finished, option), "expected a folder that no other process writes")
    assert contents(finished) == before


def test_a_process_killed_at_its_start_leaves_a_folder_that_can_be_trained_into(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / ".config.json.12.0123abcd.tmp").touch()
    trained(folder)
    assert not (folder / ".config.json.12.0123abcd.tmp").exists()
    for step in ("atomic_write", "shutil"):
        with monkeypatch.context() as patch:
            patch.setattr(capgpu.training.run_folder, step, None)  # an exception there ends as a kill does
            assert run("train", "--out", folder, *TINY, "--force").exit_code == 1
        resumed = run("train", "--resume", "--out", folder)
        assert resumed.exit_code == 0, resumed.output
        assert weight_bits(folder) == weight_bits(finished)


def test_force_overwrites_a_run_and_only_a_run(tmp_path: Path) -> None:
    folder = trained(tmp_path / "run", "--epochs", "1")
    trained(folder, "--force", "--hidden", "6", "--epochs", "1")
    assert load_model(folder).params["Wh"].shape == (6, 24)
    other = tmp_path / "letters"
    other.mkdir()
    (other / "letter.txt").write_text("keep me")
    refused(run("train", "--out", other, *TINY, "--force"), "expected a run folder")
    assert contents(other) == {"letter.txt": b"keep me"}
    (other / "letter.txt").rename(other / "model.safetensors")
    (other / "config.json").write_text('{"model_type": "bert"}')
    before = contents(other)
    refused(run("train", "--out", other, *TINY, "--force"), "expected a run folder")
    assert contents(other) == before


def test_a_state_in_a_linked_checkpoint_folder_does_not_outlive_its_run(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    state = tmp_path / "disk" / "training.safetensors"
    state.write_text("of an earlier run")
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    folder.checkpoint.symlink_to(tmp_path / "disk")
    folder.start({"data": "emoji"})
    assert not state.exists()


def test_settings_that_do_not_fit_delete_no_earlier_run(finished: Path) -> None:
    before = contents(finished)
    args = ("--force", "--tie-weights", "--hidden", "6", "--wordvec", "5")
    refused(run("train", "--out", finished, *args), "wordvec_dim: expected 6, as hidden_dim")
    assert contents(finished) == before


def test_an_unavailable_backend_is_reported_before_anything_is_written(finished: Path, tmp_path: Path) -> None:
    before = contents(finished)
    refused(run("train", "--out", finished, *TINY, "--force", "--backend", "tpu"), "or 'auto', got 'tpu'")
    assert contents(finished) == before
    refused(run("train", "--out", tmp_path / "new", "--backend", "tpu"), "or 'auto', got 'tpu'")
    assert not (tmp_path / "new").exists()


@pytest.mark.usefixtures("sigint_is_not_ignored")
def test_an_interrupted_run_resumes_to_the_same_weights(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    train_solver = CaptioningSolver.train

    def train_until_ctrl_c(solver: CaptioningSolver) -> None:
        solver.callbacks = (lambda _solver, _record: signal.raise_signal(signal.SIGINT),)
        train_solver(solver)

    with monkeypatch.context() as patch:
        patch.setattr(CaptioningSolver, "train", train_until_ctrl_c)
        result = run("train", "--out", folder, *TINY)
    assert result.exit_code == 130
    assert f"capgpu train {folder} --resume" in result.stderr
    assert not (folder / "summary.json").exists()

    refused(run("caption", "--run", folder), "--resume")
    refused(run("train", "--out", folder, *TINY), "an unfinished run")
    refused(run("train", "--resume", "--out", folder, "--hidden", "16"), "--hidden: expected 8")
    refused(run("train", "--resume", "--out", folder, "--group-by-length"), "--group-by-length: expected False")
    config = json.loads((folder / "config.json").read_text())
    del config["settings"]["group_by_length"]  # as an earlier version has written it
    (folder / "config.json").write_text(json.dumps(config))
    resumed = run("train", "--resume", "--out", folder)
    assert resumed.exit_code == 0, resumed.output
    assert weight_bits(folder) == weight_bits(finished)
    epochs = [record["epoch"] for record in read_history(folder / "history.jsonl") if record["kind"] == "epoch"]
    assert epochs == [1, 2]


def test_a_process_killed_before_its_first_state_leaves_no_step_twice_in_the_history(
    finished: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "config.json").write_bytes((finished / "config.json").read_bytes())
    lines = (finished / "history.jsonl").read_text().splitlines(keepends=True)
    (folder / "history.jsonl").write_text("".join(lines[:2]))  # the start and a step: no state was saved yet
    resumed = run("train", "--resume", "--out", folder)
    assert resumed.exit_code == 0, resumed.output
    kinds = [[record["kind"] for record in read_history(path / "history.jsonl")] for path in (folder, finished)]
    assert kinds[0].count("step") == kinds[1].count("step")
    assert weight_bits(folder) == weight_bits(finished)


def test_there_must_be_something_to_resume(finished: Path, tmp_path: Path) -> None:
    refused(run("train", "--resume", "--out", finished), "expected an unfinished run to resume")
    refused(run("train", "--resume", "--out", tmp_path), "expected a run folder")
    refused(run("train", "--resume", "--force", "--out", finished), "one of them")


@pytest.mark.parametrize(
    ("data", "cell", "says"),
    [("emoji", "attention", "capgpu prepare --grid"), ("emoji-grid", "lstm", "which only the cell 'attention' reads")],
)
def test_a_cell_that_does_not_read_the_features_is_refused(data: str, cell: str, says: str, tmp_path: Path) -> None:
    refused(run("train", "--data", data, "--cell", cell, "--out", tmp_path / "run"), says)
    assert not (tmp_path / "run" / "model.safetensors").exists()


def test_grids_are_trained_on_evaluated_and_captioned(tmp_path: Path) -> None:
    tiny = ("--hidden", 8, "--wordvec", 8, "--epochs", 1, "--batch-size", 500, "--backend", "numpy")
    folder = tmp_path / "run"
    done = run("train", "--data", "emoji-grid", "--cell", "attention", "--out", folder, *tiny)
    assert done.exit_code == 0, done.output
    scores = run("eval", folder, "--max-length", 3, "--backend", "numpy", "--json", tmp_path / "scores.json")
    assert scores.exit_code == 0, scores.output
    captions = run("caption", folder, "--count", 3, "--max-length", 3, "--backend", "numpy")
    assert captions.exit_code == 0, captions.output


def test_defaults_are_those_of_the_documentation() -> None:
    """A run without options trains as the README says: a changed default would change every such run."""
    assert train.make_context("train", []).params == {
        "data": "emoji",
        "out": None,
        "cell": "lstm",
        "self_critical": False,
        "from_run": None,
        "samples": 5,
        "reward": "CIDEr",
        "baseline": "samples",
        "sharpen": 2.0,
        "hidden": 256,
        "layers": 1,
        "wordvec": 256,
        "epochs": 60,
        "batch_size": 64,
        "learning_rate": 3e-3,
        "update_rule": "adam",
        "schedule": "cosine",
        "dropout": 0.3,
        "layer_dropout": 0.0,
        "label_smoothing": 0.0,
        "tie_weights": False,
        "group_by_length": False,
        "seed": 0,
        "dtype": "float32",
        "precision": "float32",
        "warmup": 0,
        "weight_decay": None,
        "clip_norm": None,
        "metric": None,
        "patience": None,
        "run_argument": None,
        "backend": None,
        "resume": False,
        "force": False,
    }


@pytest.mark.parametrize(
    ("option", "accepted", "refused_value"),
    [
        ("--hidden", "1", "0"),
        ("--layers", "64", "65"),
        ("--layer-dropout", "0.999", "1"),
        ("--wordvec", "1", "0"),
        ("--epochs", "1", "0"),
        ("--batch-size", "1", "0"),
        ("--seed", "0", "-1"),
        ("--dropout", "0", "-0.001"),
        ("--dropout", "0.999", "1"),
        ("--label-smoothing", "0", "-0.001"),
        ("--label-smoothing", "0.999", "1"),
        ("--learning-rate", "5e-324", "0"),
    ],
)
def test_options_accept_their_minima_and_nothing_below(option: str, accepted: str, refused_value: str) -> None:
    name = option.removeprefix("--").replace("-", "_")
    assert train.make_context("train", [option, accepted]).params[name] == float(accepted)
    with pytest.raises(click.BadParameter, match=refused_value):
        train.make_context("train", [option, refused_value])


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--epochs", "0"], "--epochs"),
        (["--batch-size", "-3"], "--batch-size"),
        (["--seed", str(2**63)], "expected at most 9223372036854775807"),
        (["--dropout", "1"], "--dropout"),
        (["--learning-rate", "0"], "--learning-rate"),
        (["--learning-rate", "nan"], "--learning-rate"),
        (["--learning-rate", "inf"], "--learning-rate"),
        (["--dropout", "nan"], "--dropout"),
        (["--cell", "gated"], "--cell"),
        (["--update-rule", "adm"], "--update-rule"),
        (["--data", "coco"], "--data"),
        (["--hiden", "3"], "--hidden"),
        (["--tie-weights", "--hidden", "6", "--wordvec", "5"], "wordvec_dim: expected 6, as hidden_dim"),
        (["--label-smoothing", "1"], "--label-smoothing"),
    ],
)
def test_bad_training_options_are_refused_and_write_nothing(args: list[str], says: str, tmp_path: Path) -> None:
    refused(run("train", "--out", tmp_path / "run", *args), says)
    assert list(tmp_path.iterdir()) == []


def test_runs_of_earlier_versions_are_resumed(tmp_path: Path) -> None:
    """They knew no tied weights, no label smoothing and no precision."""
    folder = trained(tmp_path / "run", "--epochs", "1")
    (folder / "summary.json").unlink()
    config = json.loads((folder / "config.json").read_text())
    for name in ("tie_weights", "label_smoothing", "precision"):
        del config["settings"][name]
    (folder / "config.json").write_text(json.dumps(config))
    refused(
        run("train", "--resume", "--out", folder, "--label-smoothing", "0.1"),
        "--label-smoothing: expected 0.0, with which the run",
    )
    result = run("train", "--resume", "--out", folder, "--label-smoothing", "0")
    assert result.exit_code == 0, result.output
    del config["settings"]["hidden"], config["settings"]["cell"]
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "summary.json").unlink()
    refused(run("train", "--resume", "--out", folder), "expected the settings cell, hidden")
    assert run("eval", "--run", folder).exit_code == 0


SELF_CRITICAL = ("--self-critical", "--samples", "2", "--batch-size", "600", "--epochs", "1")


def test_self_critical_training_starts_from_a_run_and_records_its_rewards(finished: Path, tmp_path: Path) -> None:
    folder = tmp_path / "better"
    output = done("train", folder, *SELF_CRITICAL, "--from", finished, "--reward", "CIDEr=1,BLEU-4=0.5")
    assert re.search(r"^\(Iteration 1 / \d+\) reward: \d\.\d{4}$", output, re.M)
    line = r"^\(Epoch 1 / 1\) reward: \d\.\d{4}; val loss: \d\.\d{4} per word; CIDEr: \d\.\d{4}$"
    assert re.search(line, output, re.M)  # and no loss of drawn captions
    best = r"Best epoch by CIDEr: (?:1|none, the start is kept), CIDEr \d\.\d{3} and \d\.\d{4} nats per word"
    assert re.search(best, output)
    settings = json.loads((folder / "config.json").read_text())["settings"]
    assert (settings["hidden"], settings["dropout"], settings["metric"]) == (8, 0.0, "CIDEr")
    history = read_history(folder / "history.jsonl")
    assert history[0]["self_critical.reward.BLEU-4"] == 0.5
    _, epoch = [record for record in history if record["kind"] == "epoch"]
    assert epoch["reward"] > 0
    assert epoch["metric.CIDEr"] > 0
    assert weight_bits(folder) != weight_bits(finished)
    with Image.open(folder / "loss.png") as picture:
        assert picture.size == (1200, 750)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"cell": ["lstm"]}, "settings: cell: expected a text"),
        ({"hidden": 7}, "expected the sizes of the model in"),
        ({"cell": "gru"}, "expected the sizes of the model in"),
    ],
)
def test_a_start_run_whose_settings_are_not_those_of_its_model_is_refused(
    finished: Path, tmp_path: Path, settings: dict[str, object], says: str
) -> None:
    start = tmp_path / "start"
    start.mkdir()
    (start / "model.safetensors").write_bytes((finished / "model.safetensors").read_bytes())
    config = json.loads((finished / "config.json").read_text())
    config["settings"] |= settings
    (start / "config.json").write_text(json.dumps(config))
    refused(run("train", tmp_path / "run", *SELF_CRITICAL, "--from", start), says)
    assert not (tmp_path / "run" / "config.json").exists()


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (("--self-critical",), "need both"),
        (("--samples", "3"), "need both"),
        (("--hidden", "16"), "--hidden: expected 8"),
        (("--reward", "METEOR"), "--reward: expected"),
        (("--reward", "CIDEr=0"), "reward: expected a weight above 0"),
        (("--samples", "1"), "samples: expected"),
    ],
)
def test_self_critical_options_that_cannot_work_are_refused(
    finished: Path, tmp_path: Path, args: tuple[str, ...], says: str
) -> None:
    start = () if says == "need both" else ("--self-critical", "--from", finished)
    refused(run("train", tmp_path / "run", *start, *args), says)
    assert not (tmp_path / "run" / "config.json").exists()
