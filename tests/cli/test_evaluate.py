"""capgpu eval: scores, sheets and files of captions."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from capgpu.data import emoji
from capgpu.data.coco_results import read_coco_results
from capgpu.evaluation.relative_cider import relative_cider
from capgpu.evaluation.selection import best_typical_worst, linspace_indices
from capgpu.metrics import coco_scores, corpus_bleu, exact_match
from capgpu.report import dataset_sheets
from capgpu.vocabulary import tokenize
from oracles.commands import done, refused, run


@pytest.mark.parametrize("split", ["test", "unseen"])
def test_scores_are_those_of_the_captions_reported(split: str, finished: Path, tmp_path: Path) -> None:
    result = run("eval", "--run", finished, "--split", split, "--json", tmp_path / "scores.json")
    assert result.exit_code == 0, result.output
    report: dict[str, Any] = json.loads((tmp_path / "scores.json").read_text())
    names = emoji.load()[f"{split}_names"]
    assert [entry["truth"] for entry in report["captions"]] == [[name.lower()] for name in names]
    assert list(report["scores"]) == ["model", "nearest_neighbour"]
    for who, scores in report["scores"].items():
        captions = [entry[who] for entry in report["captions"]]
        words, truths = [tokenize(c) for c in captions], [[tokenize(name)] for name in names]
        assert [scores[f"BLEU-{n}"] for n in (1, 2, 3, 4)] == corpus_bleu(words, truths)
        assert scores["exact"] == exact_match(words, truths)
        assert (scores["exact"], scores["base_name"]) == emoji.exact_and_base(captions, names)
        expected = coco_scores(words, truths)
        for name, score in expected.items():
            assert scores[name] == score.corpus
            assert f"{score.corpus:.3f}" in result.stdout
        assert f"{scores['base_name']:.1%}" in result.stdout


def test_the_nearest_neighbour_never_names_a_held_out_variant(finished: Path, tmp_path: Path) -> None:
    run("eval", "--run", finished, "--json", tmp_path / "scores.json")
    scores = json.loads((tmp_path / "scores.json").read_text())["scores"]["nearest_neighbour"]
    assert scores["exact"] == 0
    assert scores["base_name"] > 0.85


def test_unseen_emoji_come_with_what_cannot_be_known(finished: Path) -> None:
    result = run("eval", "--run", finished, "--split", "unseen")
    assert "can only be guessed" in result.stdout
    assert "consist of words of the vocabulary" in result.stdout


def test_a_contact_sheet_shows_the_pictures(finished: Path, tmp_path: Path) -> None:
    result = run("eval", "--run", finished, "--sheet", tmp_path / "sheet.png", "--sheet-count", "7")
    assert result.exit_code == 0, result.output
    with Image.open(tmp_path / "sheet.png") as sheet:
        drawn = np.asarray(sheet.convert("RGB")).astype(int)
        width = sheet.width
    assert width == 6 * 202 - 12 + 2 * 20
    thumbnail = emoji.thumbnail("test", linspace_indices(187, 7)[0])
    first_picture = drawn[:, 20 + 43 :][:, :104]
    assert any(_alike(first_picture[top : top + 104], thumbnail) for top in range(200))


def _alike(drawn: np.ndarray, thumbnail: np.ndarray) -> bool:
    """Compare a part of a sheet, which has 256 colours, with a picture drawn in it."""
    expected = np.asarray(Image.fromarray(thumbnail).resize((104, 104), Image.Resampling.LANCZOS)).astype(int)
    return bool(np.abs(drawn - expected).mean() < 3)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is given to the function that draws sheets, which draws nothing."""
    calls: list[dict[str, Any]] = []
    monkeypatch.setattr(
        dataset_sheets, "draw_contact_sheet", lambda path, cells, **options: calls.append({"cells": cells, **options})
    )
    return calls


def test_a_ranked_sheet_shows_the_best_typical_and_worst(
    finished: Path, tmp_path: Path, drawn: list[dict[str, Any]]
) -> None:
    done("eval", "--run", finished, "--json", tmp_path / "s.json", "--ranked-sheet", tmp_path / "s.png")
    captions = json.loads((tmp_path / "s.json").read_text())["captions"]
    texts = [entry["model"] for entry in captions]
    ranks = relative_cider(
        [tokenize(text) for text in texts],
        [[tokenize(truth) for truth in entry["truth"]] for entry in captions],
    )
    parts = best_typical_worst(ranks, 18)
    (sheet,) = drawn
    assert [cell.caption for cell in sheet["cells"]] == [texts[i] for part in parts.values() for i in part]
    assert len({cell.picture.tobytes() for cell in sheet["cells"]}) == 18
    headings = [sheet["headings"][i] for i in (0, 6, 12)]
    assert [heading.split()[0] for heading in headings] == ["Best:", "Typical,", "Worst:"]
    for heading, part in zip(headings, parts.values(), strict=True):
        assert all(f"{ranks[i]:.2f}" in heading for i in (part[0], part[-1]))


def test_sheets_name_the_model_and_its_scores(finished: Path, tmp_path: Path, drawn: list[dict[str, Any]]) -> None:
    printed = done("eval", "--run", finished, "--sheet", tmp_path / "s.jpg", "--ranked-sheet", tmp_path / "r.png")
    assert len(drawn) == 2
    for options in drawn:
        title = options["title"]
        assert title.startswith("LSTM, 8 units: BLEU-4 ")
        scores = re.findall(r"[\d.]+%?", title.removeprefix("LSTM, 8 units: BLEU-4"))
        assert len(scores) == 3
        assert all(score in printed for score in scores)
        assert options["subtitle"].startswith("18 of 187 pictures of test: held-out variants")


def test_captions_are_written_in_cocos_format(finished: Path, tmp_path: Path) -> None:
    result = run("eval", "--run", finished, "--json", tmp_path / "s.json", "--results", tmp_path / "r.json")
    assert result.exit_code == 0, result.output
    captions = json.loads((tmp_path / "s.json").read_text())["captions"]
    read = read_coco_results(tmp_path / "r.json")
    assert list(read.items()) == [(i, entry["model"]) for i, entry in enumerate(captions)]


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--split", "train", "--sheet", "sheet.png"], "whose pictures are in the sprite"),
        (["--split", "train", "--ranked-sheet", "sheet.png"], "whose pictures are in the sprite"),
        (["--sheet-count", "3"], "--sheet-count is for sheets"),
        (["--results", "nowhere/results.json"], "expected a file in an existing folder"),
        (["--split", "nothing"], "'nothing'"),
        (["--split", "nothing", "--sheet", "sheet.png"], "expected the entries nothing_captions"),
        (["--sheet", "sheet.gif"], "expected a name that ends with .png, .jpg, .jpeg or .webp, got .gif"),
        (["--json", "nowhere/scores.json"], "expected a file in an existing folder"),
        (["--sheet", "nowhere/sheet.png"], "expected a file in an existing folder"),
    ],
)
def test_bad_evaluations_are_refused_and_write_nothing(
    args: list[str], says: str, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused(run("eval", "--run", finished, *args), says)
    assert list(tmp_path.iterdir()) == []
