"""capgpu caption on a split: captions beside their truths."""

from __future__ import annotations

from pathlib import Path

import pytest

from capgpu.data import emoji
from capgpu.evaluation.selection import linspace_indices
from oracles.commands import done, refused, run


def test_captions_stand_beside_their_truths(finished: Path) -> None:
    result = run("caption", "--run", finished, "--split", "unseen", "--indices", "0,7")
    assert result.exit_code == 0, result.output
    data = emoji.load()
    lines = result.stdout.splitlines()
    for index in (0, 7):
        (line,) = (line for line in lines if line.rstrip().endswith(f" {index}"))
        assert data["unseen_names"][index].lower() in line
    assert not any(data["unseen_names"][1].lower() in line for line in lines)


def test_count_spreads_pictures_over_the_split(finished: Path) -> None:
    result = run("caption", "--run", finished, "--count", "3")
    shown = [int(line.split()[-1]) for line in result.stdout.splitlines() if line.split()[-1].isdigit()]
    assert shown == linspace_indices(187, 3) == [31, 93, 155]


def test_a_run_named_twice_is_refused(finished: Path) -> None:
    refused(run("caption", finished, "--run", finished), f"expected one run folder, got {finished} and --run")


@pytest.mark.parametrize(
    ("args", "says"),
    [
        (["--indices", "187"], "expected indices 0 to 186 of test, got 187"),
        (["--indices", "-1"], "got -1"),
        (["--indices", "1,x"], "1,x"),
        (["--split", "tset"], "'test'"),
        (["--count", "0"], "--count"),
        (["--count", "2", "--indices", "0,7"], "expected --count or --indices, got both"),
    ],
)
def test_bad_caption_options_are_refused(args: list[str], says: str, finished: Path) -> None:
    refused(run("caption", "--run", finished, *args), says)


def test_an_ensemble_of_a_run_with_itself_writes_its_captions(finished: Path) -> None:
    alone = done("caption", finished, "--count", "3")
    assert done("caption", finished, "--count", "3", "--ensemble", finished) == alone
    refused(run("caption", finished, "--count", "3", "--ensemble", finished / "none"), "expected a run folder")
