"""The command on a prepared folder: trained from, resumed, captioned, scored; never on other data unnoticed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from capgpu.checkpoint import load_model, save_model
from capgpu.folder_lock import folder_lock
from capgpu.model import CaptioningRNN
from capgpu.vision.encoder_config import EncoderConfig
from capgpu.vision.preprocessing import Preprocessing
from oracles.commands import refused, run
from oracles.folders import coco_annotations, prepared_folder, write_json

TINY = ["--hidden", "8", "--wordvec", "8", "--batch-size", "5", "--epochs", "2", "--seed", "3"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    prepared_folder(tmp_path / "data")
    return tmp_path / "data"


@pytest.fixture
def trained(data: Path, tmp_path: Path) -> Path:
    result = run("train", "--data", data, "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 0, result.output
    return tmp_path / "run"


def test_a_run_on_a_folder_records_its_absolute_path(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("train", "--data", "data", *TINY)
    assert result.exit_code == 0, result.output
    settings = json.loads((tmp_path / "runs" / "data-lstm" / "config.json").read_text())["settings"]
    assert settings["data"] == str(data)


def test_a_split_of_the_folder_is_captioned_and_scored(trained: Path) -> None:
    captioned = run("caption", "--run", trained, "--split", "val", "--count", "3")
    assert captioned.exit_code == 0, captioned.output
    scored = run("eval", "--run", trained, "--split", "val")
    assert scored.exit_code == 0, scored.output
    assert "9 pictures" in scored.stdout


def test_features_alone_make_no_contact_sheet(trained: Path, tmp_path: Path) -> None:
    refused(
        run("eval", "--run", trained, "--split", "val", "--sheet", tmp_path / "sheet.png"),
        "expected a data set with pictures to draw",
    )


def test_the_encoder_goes_into_the_run(data: Path, tmp_path: Path) -> None:
    (data / "encoder.json").write_text("{}")
    prepared = prepared_folder(data)  # written anew: the manifest knows the encoder now
    result = run("train", "--data", data, "--out", tmp_path / "run", *TINY)
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "encoder.json").read_text() == "{}"
    assert load_model(tmp_path / "run").word_to_idx == prepared["word_to_idx"]


def test_no_run_is_resumed_with_changed_data(data: Path, trained: Path) -> None:
    (trained / "summary.json").unlink()
    prepared_folder(data, seed=1)
    refused(run("train", "--resume", "--out", trained), "got data that have changed since")


def test_a_run_reads_no_features_of_another_encoder_or_length(data: Path, tmp_path: Path) -> None:
    """Captions of features that the model has not been trained on would mean nothing."""

    def prepare(channels: Literal["RGB", "BGR"]) -> None:
        preprocessing = Preprocessing(4, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), channels)
        EncoderConfig("a.onnx", "0" * 64, "pooled", preprocessing, None, 4).save(data)
        prepared_folder(data)

    prepare("RGB")
    folder = tmp_path / "run"
    assert run("train", "--data", data, "--out", folder, *TINY).exit_code == 0
    start = ("train", tmp_path / "better", "--self-critical", "--from", folder)
    prepare("BGR")
    for command in (("eval", folder, "--split", "val"), ("caption", folder, "--split", "val"), start):
        refused(run(*command), "which has since been prepared with another one")
    shape = load_model(folder).config
    save_model(folder, CaptioningRNN(load_model(folder).word_to_idx, shape["input_dim"] + 1, 8, 8, "lstm", seed=0))
    refused(run("eval", folder, "--split", "val"), f"expected data with features of length {shape['input_dim'] + 1}")


@pytest.mark.parametrize("command", [("train", "--resume", "--out"), ("eval", "--run"), ("caption", "--run")])
def test_data_that_are_gone_or_damaged_are_named(command: tuple[str, ...], data: Path, trained: Path) -> None:
    (trained / "summary.json").unlink()
    (data / "val_features.npy").unlink()
    refused(run(*command, trained), "val_features.npy: expected")
    (data / "prepared.json").unlink()
    refused(run(*command, trained), "expected a prepared data set")
    data.rename(data.with_name("elsewhere"))
    refused(run(*command, trained), str(data))


def test_what_is_no_prepared_folder_is_refused_and_nothing_written(tmp_path: Path) -> None:
    refused(run("train", "--data", tmp_path, "--out", tmp_path / "run", *TINY), "capgpu prepare")
    refused(run("train", "--data", tmp_path / "nowhere", "--out", tmp_path / "run", *TINY), "--data")
    assert list(tmp_path.iterdir()) == []


def test_check_compares_every_file_with_its_checksum(data: Path) -> None:
    checked = run("check", data)
    assert checked.exit_code == 0, checked.output
    assert checked.stdout.startswith(f"{data}: 9 files, ")
    file = data / "train_features.npy"
    content, stat = bytearray(file.read_bytes()), file.stat()
    content[200] ^= 4
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    refused(run("check", data), "train_features.npy is damaged: it does not match its checksum")


def test_a_folder_that_a_process_prepares_is_not_checked(data: Path) -> None:
    with folder_lock(data):
        refused(run("check", data), "expected a folder that no other process writes")
    with folder_lock(data, shared=True):  # as another check
        assert run("check", data).exit_code == 0
    refused(run("check", data / "missing"), "no such folder")


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])  # the latter under LC_ALL=C
def test_no_encoding_of_the_output_ends_a_command(errors: str, data: Path) -> None:
    names = [data.with_name("données"), Path(os.fsdecode(os.fsencode(data.with_name("a")) + b"\xff"))]
    for name in names:
        name.symlink_to(data)
    settings = {**os.environ, "PYTHONIOENCODING": f"ascii:{errors}"}
    for name in names:
        command = [sys.executable, "-c", "from capgpu.cli import main; main()", "check", name]
        result = subprocess.run(command, env=settings, capture_output=True, check=False)
        assert result.returncode == 0, result.stderr
        assert b"all checksums match" in result.stdout


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are always UTF-8")
def test_names_of_pictures_are_found_where_file_names_are_ascii(tmp_path: Path) -> None:
    folder = tmp_path / "Bilder ü"
    folder.mkdir()
    (folder / "captions.csv").write_text("image,caption\nü.png,a dog\nä/é.jpg,a cat\n", encoding="utf-8")
    for name in ("ü.png", "é.jpg"):  # the second lacks a folder
        (folder / name).touch()
    code = """
import os, sys
from pathlib import Path
from capgpu.data.detect_format import read_source
assert sys.getfilesystemencoding() == "ascii", sys.getfilesystemencoding()
(pictures,) = read_source(Path(sys.argv[1])).splits.values()
assert [os.fsencode(file.name).decode() for file in pictures.files] == ["ü.png", "é.jpg"]
assert all(file.is_file() for file in pictures.files)
"""
    settings = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    script = tmp_path / "script.py"
    script.write_text(code, encoding="utf-8")
    result = subprocess.run(
        [sys.executable, script, folder],
        env={**settings, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere file names are always UTF-8")
def test_a_folder_whose_name_is_not_utf8_is_prepared_and_trained_on(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path / "a") + b"\xff"))
    folder.mkdir()
    annotations = write_json(folder / "c.json", coco_annotations({i: ["a dog"] for i in range(5)}))
    np.save(folder / "f.npy", np.ones((5, 2), np.float32))
    options = ("--min-count", 1, "--val", 0.2, "--test", 0, "-o", folder / "data")
    assert run("prepare", annotations, "--features", folder / "f.npy", *options).exit_code == 0
    result = run("train", "--data", folder / "data", "--out", folder / "run", *TINY)
    assert result.exit_code == 0, result.output
    assert run("train", "--data", folder / "data", "--out", folder / "run", "--resume").exit_code == 2  # finished
    result = run("eval", "--run", folder / "run", "--split", "val", "--json", folder / "scores.json")
    assert result.exit_code == 0, result.output
    assert json.loads((folder / "scores.json").read_text())["run"] == str(folder / "run")


def test_a_folder_of_pictures_is_not_named_as_where_to_prepare_them(tmp_path: Path) -> None:
    (tmp_path / "cat.png").touch()
    (tmp_path / "captions.csv").touch()
    refused(run("train", "--data", tmp_path), f"Create one with: capgpu prepare {tmp_path} -o FOLDER")
    (tmp_path / "cat.png").unlink()
    refused(run("train", "--data", tmp_path), f"Create one with: capgpu prepare SOURCE -o {tmp_path}")
