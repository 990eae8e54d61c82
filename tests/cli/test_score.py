"""capgpu score, from files to figures."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rich.console import Console

from capgpu.cli import main
from capgpu.cli.console import score_table
from capgpu.evaluation.scores import score_captions
from capgpu.metrics import coco_scores
from capgpu.tokens import TOKENIZERS

TRUTHS = {
    10: ["A dog runs on the beach.", "The dog's on the sand"],
    11: ["Two cats sleep.", "A pair of cats (asleep) on a bed"],
    12: ["A man isn't here!"],
}
CAPTIONS = {12: "a man is here", 10: "A dog on the beach", 11: "two cats asleep on a bed"}


def run(*args: object) -> Result:
    return CliRunner().invoke(main, ["score", *(str(arg) for arg in args)])


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    annotations = {
        "images": [{"id": image_id} for image_id in TRUTHS],
        "annotations": [
            {"image_id": image_id, "caption": text} for image_id, texts in TRUTHS.items() for text in texts
        ],
    }
    (tmp_path / "truth.json").write_text(json.dumps(annotations))
    results = [{"image_id": image_id, "caption": text} for image_id, text in CAPTIONS.items()]
    (tmp_path / "results.json").write_text(json.dumps(results))
    return tmp_path / "results.json", tmp_path / "truth.json"


@pytest.mark.parametrize("tokens", ["coco", "plain"])
def test_figures_are_those_of_the_metrics_on_the_files_words(tokens: str, files: tuple[Path, Path]) -> None:
    result = run(*files, "--tokens", tokens, "--json", files[0].parent / "scores.json")
    assert result.exit_code == 0, result.output
    report = json.loads((files[0].parent / "scores.json").read_text())
    tokenize = TOKENIZERS[tokens]
    words = [tokenize(text) for text in CAPTIONS.values()]
    references = [[tokenize(text) for text in TRUTHS[image_id]] for image_id in CAPTIONS]
    expected = coco_scores(words, references)
    scores = {name: score.corpus for name, score in expected.items()}
    assert report["scores"] == {**scores, "CIDEr-D": scores["CIDEr"], "exact": 0.0}
    assert [entry["image_id"] for entry in report["captions"]] == list(CAPTIONS)
    for name, score in expected.items():
        assert [entry[name] for entry in report["captions"]] == score.captions.tolist()
        assert f"{score.corpus:.3f}" in result.stdout
    assert "3 pictures, 5 true captions" in result.stdout


def test_a_subset_is_scored_where_that_is_asked_for(files: tuple[Path, Path]) -> None:
    entries = json.loads(files[0].read_text())
    files[0].write_text(json.dumps([entries[0], {**entries[1], "caption": ""}]))
    result = run(*files, "--subset")
    assert result.exit_code == 0, result.output
    assert "1 of 2 captions have no words; they count as wrong" in " ".join(result.output.split())
    assert "no words" not in run(*files, "--subset", "--allow-empty").output
    result = run(*files)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "--subset" in result.stderr


@pytest.mark.parametrize("caption", [".", "", "\u200b", "\U0001f600"])
def test_a_caption_without_words_is_wrong_and_changes_no_other(caption: str, files: tuple[Path, Path]) -> None:
    entries = json.loads(files[0].read_text())
    reports = []
    for text in ("zzz", caption):
        files[0].write_text(json.dumps([{**entries[0], "caption": text}, *entries[1:]]))
        result = run(*files, "--json", files[0].parent / "scores.json")
        assert result.exit_code == 0, result.output
        reports.append(json.loads((files[0].parent / "scores.json").read_text())["captions"])
    wrong, wordless = reports
    assert all(value == 0 for name, value in wordless[0].items() if name not in ("image_id", "caption"))
    assert wordless[1:] == wrong[1:]


def test_a_cider_of_0_for_a_single_picture_is_explained(files: tuple[Path, Path]) -> None:
    entries = json.loads(files[0].read_text())
    assert "single picture" not in run(*files).output
    files[0].write_text(json.dumps([{**entries[1], "caption": "A dog runs on the beach"}]))
    assert "single picture" in " ".join(run(*files, "--subset").output.split())


@pytest.mark.parametrize("damaged", [0, 1])
@pytest.mark.parametrize("cut", [0, 1, 30, -1])
def test_a_file_that_is_cut_short_is_named(files: tuple[Path, Path], damaged: int, cut: int) -> None:
    files[damaged].write_text(files[damaged].read_text()[:cut])
    result = run(*files, "--json", files[0].parent / "scores.json")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"{files[damaged]}, line 1, column" in result.stderr
    assert not (files[0].parent / "scores.json").exists()


def test_the_two_files_in_the_wrong_order_are_reported(files: tuple[Path, Path]) -> None:
    assert "looks like an annotation file" in run(files[1], files[0]).stderr


def test_files_that_are_not_there_are_named(files: tuple[Path, Path]) -> None:
    assert "nowhere.json" in run("nowhere.json", files[1]).stderr
    assert (
        "expected a file in an existing folder" in run(*files, "--json", files[0].parent / "no" / "scores.json").stderr
    )


@pytest.mark.parametrize("name", ["meteor", "spice"])
def test_metrics_of_java_say_what_they_lack(
    name: str, files: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(files[0].parent))  # where no java is
    result = run(*files, f"--{name}")
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert "pip install 'pycocoevalcap" in result.stderr or "expected a java program on PATH, got none" in result.stderr


def test_meteor_is_that_of_its_program(files: tuple[Path, Path]) -> None:
    pytest.importorskip("pycocoevalcap.meteor.meteor")
    if shutil.which("java") is None:
        pytest.skip("there is no java on PATH")
    result = run(*files, "--meteor", "--json", files[0].parent / "scores.json")
    assert result.exit_code == 0, result.output
    report = json.loads((files[0].parent / "scores.json").read_text())
    values = [entry["METEOR"] for entry in report["captions"]]
    assert 0.1 < min(values) <= report["scores"]["METEOR"] <= max(values) < 1
    assert f"{report['scores']['METEOR']:.3f}" in result.stdout


def test_neither_file_is_overwritten(files: tuple[Path, Path]) -> None:
    before = [file.read_bytes() for file in files]
    for file in files:
        result = run(*files, "--json", file)
        assert result.exit_code == 2
        assert f"{file} is an input" in result.stderr
    assert [file.read_bytes() for file in files] == before


def test_no_figure_is_cut_on_a_narrow_terminal() -> None:
    words = [["a", "red", "cat", "sleeps"], ["two", "dogs", "run", "fast"]]
    scores = score_captions(words, [[caption] for caption in words], right_base=[True, False])
    console = Console(width=60, record=True, file=io.StringIO())
    console.print(score_table({"LSTM, 256 units, beam of 5": scores, "nearest training picture": scores}))
    text = console.export_text()
    assert "…" not in text
    names = [*scores.metrics, "exact", "right"]
    assert [line.split()[0] for line in text.splitlines()[-len(names) :]] == names
    assert text.splitlines()[-1].split()[-2:] == ["50.0%", "50.0%"]
