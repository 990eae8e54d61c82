"""The folder of a run that a command reads: missing, damaged, of other data, complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from capgpu.checkpoint import load_weights, save_model
from capgpu.model import CaptioningRNN
from oracles.commands import refused, run


@pytest.mark.parametrize("command", ["caption", "eval"])
def test_what_is_no_run_is_refused(command: str, tmp_path: Path) -> None:
    refused(run(command, "--run", tmp_path), "expected a run folder")
    refused(run(command, "--run", tmp_path / "nowhere"), "expected a run folder")
    (tmp_path / "config.json").write_text('{"format": "capgpu-run-1", "settings": {"da')
    refused(run(command, "--run", tmp_path), "config.json is damaged")
    (tmp_path / "config.json").write_text('{"format": "something else"}')
    refused(run(command, "--run", tmp_path), "as capgpu train writes it")
    for damaged in ("", ', "settings": [1]', ', "settings": {"data": 5}'):
        (tmp_path / "config.json").write_text(f'{{"format": "capgpu-run-1"{damaged}}}')
        refused(run(command, "--run", tmp_path), "is damaged: ")
        assert re.search("settings: .*expected|expected settings, an object", run(command, "--run", tmp_path).stderr)
    (tmp_path / "config.json").write_text("[" * 100_000)
    refused(run(command, "--run", tmp_path), "config.json is damaged")


def test_a_link_to_a_missing_folder_is_named(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "missing")
    says = f"{link}: expected a folder, got a link to {tmp_path / 'missing'}, which does not exist. Create that folder"
    refused(run("train", link, "--epochs", "1"), says)
    refused(run("train", link / "run", "--epochs", "1"), says)
    model = CaptioningRNN({"<NULL>": 0}, 2, 2, 2, seed=0)
    with pytest.raises(OSError, match=re.escape(says.partition(": ")[2])):
        model.save(link / "model.safetensors")
    assert list(tmp_path.iterdir()) == [link]


def test_unknown_kernels_are_refused_before_a_folder_is_made(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CAPGPU_KERNELS", "fast")
    refused(run("train", tmp_path / "run", "--data", "emoji"), "expected 'fused' or 'reference', got 'fast'")
    assert not (tmp_path / "run").exists()


def copied(finished: Path, folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "summary.json", "model.safetensors"):
        (folder / name).write_bytes((finished / name).read_bytes())
    return folder


def test_a_damaged_model_is_named(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    refused(run("eval", "--run", folder), str(folder / "model.safetensors"))


def test_a_model_of_another_vocabulary_is_refused(finished: Path, tmp_path: Path) -> None:
    folder = copied(finished, tmp_path / "run")
    words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "<UNK>": 3}
    save_model(folder, CaptioningRNN(words, 256, 8, 8, seed=0))
    refused(run("eval", "--run", folder), "another vocabulary")


def test_weights_can_be_read_without_the_library(finished: Path) -> None:
    weights, _ = load_weights(finished / "model.safetensors")
    assert sorted(weights) == ["W_embed", "W_proj", "W_vocab", "Wh", "Wx", "b", "b_proj", "b_vocab"]
