"""Loss curves and contact sheets: what is on the pictures, not just that there are some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from capgpu.evaluation.match import Match
from capgpu.report.contact_sheet import Cell, draw_contact_sheet
from capgpu.report.loss_curve import plot_loss

BLUE, VERMILLION, AMBER = (0, 114, 178), (213, 94, 0), (180, 122, 0)
GREEN = np.full((48, 48, 3), (10, 200, 30), dtype=np.uint8)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        assert image.format == "PNG"
        return np.asarray(image.convert("RGB")).astype(int)


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((np.abs(picture - colour).max(axis=2) < 8).sum())


def sheet(path: Path, *cells: Cell, **options: object) -> np.ndarray:
    draw_contact_sheet(path, cells, title="Pictures", **options)  # type: ignore[arg-type]
    return pixels(path)


# --- the loss curve ---------------------------------------------------------------------------------------


def test_a_falling_loss_is_drawn_falling(tmp_path: Path) -> None:
    plot_loss(tmp_path / "loss.png", [(i / 10, 5 - 0.04 * i) for i in range(1, 101)], title="a run")
    picture = pixels(tmp_path / "loss.png")
    assert picture.shape == (750, 1200, 3)
    rows, columns = np.nonzero(np.abs(picture - BLUE).max(axis=2) < 8)
    curve = columns < 900  # the legend is to the right of it
    assert np.corrcoef(columns[curve], rows[curve])[0, 1] > 0.9


def test_validation_losses_have_their_own_colour(tmp_path: Path) -> None:
    training = [(i / 10, 3.0 - i / 50) for i in range(1, 101)]
    plot_loss(tmp_path / "without.png", training, title="a run")
    plot_loss(tmp_path / "with.png", training, [(i, 3.0 - i / 8) for i in range(1, 11)], title="a run")
    assert count(pixels(tmp_path / "without.png"), VERMILLION) == 0
    assert count(pixels(tmp_path / "with.png"), VERMILLION) > 500


@pytest.mark.parametrize(
    "losses", [[2.0], [0.0, 0.0], [1.0, float("nan"), float("inf"), 0.5], [-1.0, -2.0], [1e-9, 1e9]]
)
def test_odd_losses_are_drawn(losses: list[float], tmp_path: Path) -> None:
    plot_loss(tmp_path / "loss.png", list(enumerate(losses, start=1)), title="a run")
    assert count(pixels(tmp_path / "loss.png"), BLUE) > 50


def test_no_loss_to_draw_is_refused_and_writes_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no finite loss"):
        plot_loss(tmp_path / "loss.png", [(1, float("nan"))], title="a run")
    assert list(tmp_path.iterdir()) == []


# --- the contact sheet ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "colour", "others"),
    [
        ("right", BLUE, (VERMILLION, AMBER)),
        ("near", AMBER, (BLUE, VERMILLION)),
        ("wrong", VERMILLION, (BLUE, AMBER)),
    ],
)
def test_a_match_is_marked_in_its_colour(
    match: Match, colour: tuple[int, int, int], others: tuple[tuple[int, int, int], ...], tmp_path: Path
) -> None:
    picture = sheet(tmp_path / "sheet.png", Cell(GREEN, "a cat", "a dog", match), legend={})
    assert count(picture, colour) > 800
    assert [count(picture, other) for other in others] == [0, 0]


def test_matches_differ_without_any_colour(tmp_path: Path) -> None:
    matches: tuple[Match, ...] = ("right", "near", "wrong")
    shapes = set()
    for match in matches:
        picture = sheet(tmp_path / "sheet.png", Cell(GREEN, "", "", match), legend={})
        corner = picture[picture.shape[0] - 200 :, -50:-10]  # the mark's place on the card
        inked = corner.min(axis=2) < 230
        shapes.add(inked[np.ix_(inked.any(axis=1), inked.any(axis=0))].tobytes())
    assert len(shapes) == 3


def test_pictures_are_shown_whole_and_large(tmp_path: Path) -> None:
    cells = [Cell(GREEN, "a cat", "a cat", "right")] * 7
    picture = sheet(tmp_path / "sheet.png", *cells, columns=3)
    assert count(picture, (10, 200, 30)) == 7 * 112 * 112


def test_cards_under_a_heading_begin_a_row(tmp_path: Path) -> None:
    cells = [Cell(GREEN, "a cat", "a cat", "right")] * 5
    plain = sheet(tmp_path / "plain.png", *cells, columns=3)
    parted = sheet(tmp_path / "parted.png", *cells, columns=3, headings={0: "best", 4: "worst"})
    green = np.abs(parted - (10, 200, 30)).max(axis=2) < 8
    rows_of_pictures = np.flatnonzero(np.diff(green.any(axis=1).astype(int)) == 1)
    in_each = [int(green[row + 1].sum()) // 112 for row in rows_of_pictures]
    assert in_each == [3, 1, 1]
    assert parted.shape[1] == plain.shape[1]
    ink = [(drawn.min(axis=2) < 60).sum() for drawn in (plain, parted)]
    assert ink[1] > ink[0] + 100  # the headings


def test_transparent_parts_show_the_card(tmp_path: Path) -> None:
    picture = np.zeros((32, 32, 4), dtype=np.uint8)
    picture[..., 1] = 255
    drawn = sheet(tmp_path / "sheet.png", Cell(picture, "a ghost", "a ghost", "right"))
    assert count(drawn, (0, 255, 0)) == 0


def test_rows_grow_with_their_text_so_that_nothing_is_cut(tmp_path: Path) -> None:
    short = sheet(tmp_path / "short.png", Cell(GREEN, "cat", "cat", "right"))
    long = sheet(tmp_path / "long.png", Cell(GREEN, "cat " * 40, "cat", "wrong"))
    unbroken = sheet(tmp_path / "unbroken.png", Cell(GREEN, "c" * 160, "cat", "wrong"))
    assert long.shape[0] > short.shape[0] + 100
    assert unbroken.shape[0] > short.shape[0] + 100
    margin = unbroken[-60:, :12]  # text that ran over its card would reach the margins
    assert (margin.min(axis=2) > 200).all()


def test_the_truth_is_written_only_where_it_differs(tmp_path: Path) -> None:
    right = sheet(tmp_path / "right.png", Cell(GREEN, "a cat", "a cat", "right"))
    wrong = sheet(tmp_path / "wrong.png", Cell(GREEN, "a cat", "a dog", "wrong"))
    assert wrong.shape[0] == right.shape[0] + 19


@pytest.mark.parametrize(
    ("cells", "options", "error", "says"),
    [
        ([], {}, ValueError, "cells: expected at least one picture"),
        ([Cell(GREEN, "", "", "right")], {"columns": 0}, ValueError, "columns: expected at least 1, got 0"),
        ([Cell(GREEN.astype(np.float32), "", "", "right")], {}, TypeError, "float32"),
        ([Cell(GREEN[..., 0], "", "", "right")], {}, ValueError, r"\(48, 48\)"),
    ],
)
def test_bad_sheets_are_refused_and_write_nothing(cells, options, error, says, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=says):
        draw_contact_sheet(tmp_path / "sheet.png", cells, title="Pictures", **options)
    assert list(tmp_path.iterdir()) == []


def test_no_png_is_written_under_the_name_of_another_format(tmp_path: Path) -> None:
    for draw in (
        lambda path: draw_contact_sheet(path, [Cell(GREEN, "a", "a", "right")], title="t"),
        lambda path: plot_loss(path, [(1, 2.0)], title="t"),
    ):
        with pytest.raises(ValueError, match=r"x.jpg: expected the name of a PNG file, .* Name it .*x.png"):
            draw(tmp_path / "x.jpg")
    assert list(tmp_path.iterdir()) == []
