"""What the front page shows works as it stands."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

import capgpu
from capgpu.cli import main
from capgpu.training.run_folder import RunFolder
from capgpu.vision import open_encoder
from oracles.networks import tiny_network

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


#: The front page and the documentation.
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.M | re.S)


@pytest.fixture
def demo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Work in a folder with a picture and with a run, of a tiny model and network."""
    monkeypatch.chdir(tmp_path)
    run = RunFolder("runs/demo")
    run.start({"data": "gone"})
    words = {word: i for i, word in enumerate(["<NULL>", "<START>", "<END>", "cat", "face"])}
    capgpu.CaptioningRNN(words, 5, 4, 6, "lstm", seed=2).save(run.path)
    open_encoder(tiny_network(tmp_path / "tiny.onnx"), output="pooled").save(run.path)
    Image.new("RGB", (9, 7), "orange").save("cat.png")


@pytest.mark.usefixtures("demo")
@pytest.mark.parametrize("code", blocks("python"))
def test_python_examples_run(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    small = re.sub(r"(hidden|wordvec)_dim=\d+", r"\1_dim=16", re.sub(r"num_epochs=\d+", "num_epochs=1", code))
    with capgpu.use_backend("numpy"):
        exec(compile(small, "README.md", "exec"), {})  # our own page, not anybody's input
    assert ("print(" in code) <= (" | " in capsys.readouterr().out)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_shown_exist_with_their_options(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    code = "\n".join(re.findall(r"^```.*?\n(.*?)^```", text, flags=re.M | re.S))
    shown = re.findall(r"^!?(?:CAPGPU_\w+=\S+ )?(capgpu [a-z][^\n#]*)", code, flags=re.M)
    shown += re.findall(r"`(capgpu [a-z][^`]* --[^`]*)`", text)
    assert page.name != "README.md" or len(shown) >= 4
    for _, name, *rest in map(str.split, shown):
        known = {option for parameter in main.commands[name].params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known


def test_link_targets_exist() -> None:
    for name in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "bench/README.md", "bench/cuda/README.md"):
        page = ROOT / name
        for target in re.findall(r"(?:\]\((?!https:)|src=\")([^)\"]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{name} links to {target}"


def test_the_targets_of_make_that_the_pages_name_exist() -> None:
    targets = re.search(r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.M)
    assert targets is not None
    for name in ("README.md", "CONTRIBUTING.md", "bench/README.md", "bench/cuda/README.md"):
        named = re.findall(r"(?:^|`)make ([a-z][a-z -]*)", (ROOT / name).read_text(encoding="utf-8"), flags=re.M)
        assert {word for words in named for word in words.split()} <= set(targets[1].split()), name


def test_files_the_guide_names_exist() -> None:
    guide = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    for name in re.findall(r"`((?:capgpu|kernels|tests|bench|tools)/[a-z_/.]+)`", guide):
        assert (ROOT / name).exists(), name
