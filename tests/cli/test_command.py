"""What all commands have in common: help, run folders, settings from files, tables in pipes."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import click
import pytest
from PIL import Image

from capgpu.cli import main
from capgpu.cli.progress_bar import ProgressBar
from capgpu.training.history import read_history
from oracles.commands import TINY, done, refused, run

COMMANDS = sorted(main.commands)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_shows_every_option_and_examples_that_use_existing_options(name: str) -> None:
    command = main.commands[name]
    text = done(name, "--help")
    options = [param for param in command.params if isinstance(param, click.Option)]
    assert all(option.opts[-1] in text for option in options)
    known = {option for param in options for option in (*param.opts, *param.secondary_opts)} | {"--help"}
    lines = [line.strip() for line in text.split("Examples:")[1].splitlines()]
    examples = [line for line in lines if line.startswith("capgpu")]
    assert examples
    for line in examples:
        _, called, *words = line.split()
        if called == name:
            assert {word for word in words if word.startswith("--")} <= known


def test_help_breaks_no_line_inside_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    for columns in ("60", "80", "100"):
        monkeypatch.setenv("COLUMNS", columns)
        for name in ("", *COMMANDS):
            text = done(*filter(None, [name, "--help"])).partition("Examples:")[0]
            assert not [line for line in text.splitlines() if line.endswith("-")], name


def test_the_list_of_commands_has_whole_sentences() -> None:
    text = " ".join(done("--help").split())
    for name in COMMANDS:
        sentence = " ".join((main.commands[name].help or "").split("\n\n")[0].split())
        assert f"{name} {sentence}" in text


def test_a_run_folder_is_the_first_argument_or_an_option(finished: Path) -> None:
    assert done("eval", finished) == done("eval", "--run", finished)
    assert done("caption", finished, "--count", 3) == done("caption", "--run", finished, "--count", 3)
    refused(run("eval", finished, "--run", finished), "expected one run folder")


def test_a_missing_run_folder_is_reported_with_the_existing_ones(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    picture = tmp_path / "cat.png"
    Image.new("RGB", (4, 4)).save(picture)
    refused(run("eval"), "expected a run folder as the first argument, got none. capgpu train writes one.")
    shutil.copytree(finished, tmp_path / "runs" / "first")
    refused(run("caption", picture), f"got the file {picture}. There are: {Path('runs', 'first')}.")


def test_settings_come_from_a_file_unless_given(tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        'hidden = 5\nseed = 9\n[train]\nwordvec = 6\nlearning-rate = 0.5\nupdate_rule = "sgd"\n[eval]\nbeam=3\n'
    )
    folder = tmp_path / "run"
    done("train", folder, "--config", file, "--seed", 4, "--epochs", 1, "--batch-size", 600)
    settings = json.loads((folder / "config.json").read_text())["settings"]
    expected = {"hidden": 5, "wordvec": 6, "seed": 4, "learning_rate": 0.5, "update_rule": "sgd"}
    assert {name: settings[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("hiden = 5", "expected options of capgpu train, got hiden. Did you mean hidden?"),
        ("hidden = 2.5", "hidden: "),
        ("hidden = 0", "hidden: "),
        ("hidden = true", "hidden: expected a number or a text, got True"),
        ('tie-weights = "no"', "tie-weights: expected true or false, got 'no'"),
        ("hidden: 5", "expected settings in TOML"),
        ('cell = "mgu"', "cell: "),
        ("[trian]\nhidden = 5", "expected tables of commands, such as [train], got [trian]. Did you mean [train]?"),
        ("dropout = {rate = 0.1}", "expected tables of commands, such as [train], got [dropout]."),
        ("batch_size = 8\nbatch-size = 9", "expected each option once, got batch_size and batch-size."),
    ],
)
def test_a_wrong_setting_is_refused_with_file_and_name(text: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(text)
    result = run("train", tmp_path / "run", "--config", file)
    refused(result, says)
    assert str(file) in result.stderr
    assert not (tmp_path / "run").exists()


def test_options_of_training_reach_the_solver(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    options = ("--warmup", 3, "--clip-norm", 0.5, "--update-rule", "adamw", "--weight-decay", 0.02)
    done("train", folder, *TINY, *options)
    start = read_history(folder / "history.jsonl")[0]
    assert (start["warmup"], start["clip_norm"], start["optim_config.weight_decay"]) == (3, 0.5, 0.02)
    refused(run("train", tmp_path / "other", "--weight-decay", 0.1), "expected the update rule adamw, got adam")
    refused(run("train", tmp_path / "other", "--layer-dropout", 0.1), "--layer-dropout: expected 0 with one layer")


def test_training_follows_a_metric_and_stops_when_it_no_longer_improves(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    # at this learning rate nothing is learned
    done("train", folder, *TINY, "--epochs", 6, "--metric", "CIDEr", "--patience", 1, "--learning-rate", 1e-9)
    records = read_history(folder / "history.jsonl")
    epochs = [record for record in records if record["kind"] == "epoch"]
    assert len(epochs) == 2
    assert all("metric.CIDEr" in epoch for epoch in epochs)


def test_threads_are_set_for_everything(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CAPGPU_THREADS", "7")
    done("caption", finished, "--count", 1, "--threads", 3)
    assert os.environ["CAPGPU_THREADS"] == "3"


def test_tables_in_pipes_have_a_line_per_row_and_no_padding(finished: Path) -> None:
    lines = done("caption", finished, "--count", 20).splitlines()
    assert all(line == line.rstrip() for line in lines)
    assert len(lines) == 1 + 1 + 20 + 1  # title, headings, rows, legend
    assert lines[-1].startswith("✓ equal to a true caption")


def test_progress_shows_the_time_that_remains_where_work_takes_long(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now = iter([100.0, 100.5, 102.0, 103.0, 140.0])
    monkeypatch.setattr("time.monotonic", lambda: next(now))
    with ProgressBar() as bar:
        for done_pictures in (0, 10, 20, 30, 40):
            bar.show(done_pictures, 100)
    assert capsys.readouterr().err.splitlines() == [
        "pictures: 20 of 100, 8 s left",
        "pictures: 40 of 100, 60 s left",
    ]


def test_progress_on_a_terminal_is_a_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("capgpu.cli.progress_bar._FIRST", 0.0)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with ProgressBar() as bar:
        bar.show(20, 100)
        bar.show(30, 100)
    shown = capsys.readouterr().err
    assert "pictures" in shown
    assert "30/100" in shown


def test_an_empty_path_is_not_the_current_folder(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (("caption", finished, ""), ("caption", "", "cat.png"), ("train", ""), ("train", "--out", "")):
        refused(run(*command), "expected a path, got an empty text.")
    assert list(tmp_path.iterdir()) == []


def test_a_file_to_write_has_a_name(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("eval", finished, "--json", "-"), "-: expected the name of a file to write.")
    assert list(tmp_path.iterdir()) == []
