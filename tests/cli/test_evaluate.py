"""capgpu eval: scores, sheets and files of captions."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from capgpu.data import emoji
from capgpu.data.coco_results import read_coco_results
from capgpu.evaluation.relative_cider import relative_cider
from capgpu.evaluation.selection import linspace_indices
from capgpu.metrics import coco_scores, corpus_bleu, exact_match
from capgpu.vocabulary import tokenize
from oracles.commands import refused, run


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
    assert width == 6 * 242 + 10
    thumbnail = emoji.thumbnail("test", linspace_indices(187, 7)[0])
    expected = np.asarray(Image.fromarray(thumbnail).resize((112, 112), Image.Resampling.LANCZOS)).astype(int)
    first_picture = drawn[:, 70 : 70 + 112]
    assert any((first_picture[top : top + 112] == expected).all() for top in range(200))


def test_a_ranked_sheet_shows_the_best_first_and_the_worst_last(finished: Path, tmp_path: Path) -> None:
    result = run(
        "eval",
        "--run",
        finished,
        "--json",
        tmp_path / "s.json",
        "--ranked-sheet",
        tmp_path / "s.png",
        "--sheet-count",
        6,
    )
    assert result.exit_code == 0, result.output
    captions = json.loads((tmp_path / "s.json").read_text())["captions"]
    ranks = relative_cider(
        [tokenize(entry["model"]) for entry in captions],
        [[tokenize(truth) for truth in entry["truth"]] for entry in captions],
    )
    with Image.open(tmp_path / "s.png") as sheet:
        drawn = np.asarray(sheet.convert("RGB")).astype(int)

    def top(image: int, column: int) -> int:
        """Find the picture's upper edge in a column of cards."""
        thumbnail = Image.fromarray(emoji.thumbnail("test", image)).resize((112, 112), Image.Resampling.LANCZOS)
        cards = drawn[:, 70 + 242 * column :][:, :112]
        tops = [y for y in range(len(cards) - 112) if (cards[y : y + 112] == np.asarray(thumbnail)).all()]
        assert len(tops) == 1
        return tops[0]

    # two pictures a part: the best of all stands first, the worst second
    order = np.argsort(-ranks, kind="stable").tolist()
    places = [top(order[0], 0), top(order[1], 1), top(order[-2], 0), top(order[-1], 1)]
    assert places[0] == places[1] < 200
    assert places[2] == places[3] > len(drawn) // 2


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
        (["--results", "nowhere/results.json"], "expected a file in an existing folder"),
        (["--split", "nothing"], "'nothing'"),
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
