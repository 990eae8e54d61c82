"""Loss curves and contact sheets: what is on the pictures, not just that there are some."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from PIL import Image, ImageDraw

from capgpu.evaluation.match import Match
from capgpu.report import typeface
from capgpu.report.contact_sheet import Cell, draw_contact_sheet
from capgpu.report.image_file import write_image
from capgpu.report.loss_curve import _log_ticks, plot_loss

BLUE, VERMILLION, ORANGE, BLACK = (0, 114, 178), (213, 94, 0), (230, 159, 0), (0, 0, 0)
GREEN = np.full((48, 48, 3), (10, 200, 30), dtype=np.uint8)


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
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
    curve = rows > 110  # the legend is above it
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
def test_infinite_and_constant_losses_are_drawn(losses: list[float], tmp_path: Path) -> None:
    plot_loss(tmp_path / "loss.png", list(enumerate(losses, start=1)), title="a run")
    assert count(pixels(tmp_path / "loss.png"), BLUE) > 50


@pytest.mark.parametrize(("low", "high"), [(1.42, 1.93), (0.9, 2.1), (0.08, 8), (1.99, 2.01), (1e-9, 1e9), (0.5, 50)])
def test_losses_of_any_range_have_labels_at_round_values(low: float, high: float) -> None:
    ticks = _log_ticks(low, high)
    assert 4 <= len(ticks) <= 10
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == pytest.approx([float(f"{tick:.4g}") for tick in ticks], rel=1e-9)


def test_a_history_without_losses_is_refused_and_writes_no_file(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a finite loss"):
        plot_loss(tmp_path / "loss.png", [(1, float("nan"))], title="a run")
    assert list(tmp_path.iterdir()) == []


# --- the contact sheet ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("match", "colour", "others"),
    [
        ("right", BLUE, (ORANGE,)),
        ("near", ORANGE, (BLUE,)),
        ("wrong", BLACK, (BLUE, ORANGE)),
    ],
)
def test_a_match_is_marked_in_its_colour(
    match: Match, colour: tuple[int, int, int], others: tuple[tuple[int, int, int], ...], tmp_path: Path
) -> None:
    picture = sheet(tmp_path / "sheet.png", Cell(GREEN, "a cat", "a dog", match), legend={})
    assert count(picture, colour) > 800
    assert not any(count(picture, other) for other in others)


def test_matches_differ_without_any_colour(tmp_path: Path) -> None:
    matches: tuple[Match, ...] = ("right", "near", "wrong")
    shapes = set()
    for match in matches:
        picture = sheet(tmp_path / "sheet.png", Cell(GREEN, "", "", match), legend={})
        bottom = picture.shape[0] - 20  # of a card of 169 pixels with one line of text
        disc = picture[bottom - 155 : bottom - 127, 174:202]  # the mark's place on the card
        ground = disc[14, 5]
        sign = np.abs(disc[6:22, 6:22] - ground).max(axis=2) > 100
        assert 10 < sign.sum() < 200
        shapes.add(sign.tobytes())
    assert len(shapes) == 3


def test_pictures_are_shown_whole_and_large(tmp_path: Path) -> None:
    cells = [Cell(GREEN, "a cat", "a cat", "right")] * 7
    picture = sheet(tmp_path / "sheet.png", *cells, columns=3)
    assert count(picture, (10, 200, 30)) == 7 * 104 * 104


def test_cards_under_a_heading_begin_a_row(tmp_path: Path) -> None:
    cells = [Cell(GREEN, "a cat", "a cat", "right")] * 5
    plain = sheet(tmp_path / "plain.png", *cells, columns=3)
    parted = sheet(tmp_path / "parted.png", *cells, columns=3, headings={0: "best", 4: "worst"})
    green = np.abs(parted - (10, 200, 30)).max(axis=2) < 8
    rows_of_pictures = np.flatnonzero(np.diff(green.any(axis=1).astype(int)) == 1)
    in_each = [int(green[row + 1].sum()) // 104 for row in rows_of_pictures]
    assert in_each == [3, 1, 1]
    assert parted.shape[1] == plain.shape[1]
    ink = [(drawn.min(axis=2) < 60).sum() for drawn in (plain, parted)]
    assert ink[1] > ink[0] + 100  # the headings


@pytest.mark.parametrize("shape", [(60, 80), (80, 60), (20, 200), (300, 10), (1, 1)])
def test_photographs_fill_their_part_of_the_card(shape: tuple[int, int], tmp_path: Path) -> None:
    photograph = np.full((*shape, 3), (150, 90, 0), dtype=np.uint8)
    drawn = sheet(tmp_path / "sheet.png", Cell(photograph, "a", "a", "right"), fill=True, legend={})
    bottom = drawn.shape[0] - 20 - 12 - 20 - 9  # below it: margin, padding, a line of text, space
    part = drawn[bottom - 190 : bottom, 20:210]
    clear = np.ones((190, 190), dtype=bool)
    clear[7:37, 153:183] = False  # but for the mark,
    clear[:5] = False  # and for the card's round corners
    assert (part[clear, 2] <= 160).all()  # brown, or a pale copy of it: not the card's white
    assert (np.abs(part[95, 95] - (150, 90, 0)) < 8).all()
    kept = count(drawn, (150, 90, 0)) / 190**2
    assert kept > 0.9 if max(shape) <= 2 * min(shape) else 0.02 < kept < 0.6


def test_large_sheets_have_more_columns_and_no_text_leaves_a_sheet(tmp_path: Path) -> None:
    legend: dict[Match, str] = {"right": "right, word for word", "near": "the right base name", "wrong": "other " * 6}
    for n, width in ((1, 600), (3, 634), (18, 1240), (100, 2048)):
        cells = [Cell(GREEN, "a cat", "a cat", "right")] * n
        drawn = sheet(tmp_path / "sheet.png", *cells, legend=legend, subtitle="wide " * n)
        assert drawn.shape[1] == width
        assert drawn.shape[0] < 3 * width
        assert (drawn[:, -19:].min(axis=2) > 200).all()


@pytest.mark.parametrize(
    ("name", "kind"), [("s", "PNG"), ("s.png", "PNG"), ("s.JPG", "JPEG"), ("s.jpeg", "JPEG"), ("s.webp", "WEBP")]
)
def test_the_suffix_decides_the_format(name: str, kind: str, tmp_path: Path) -> None:
    draw_contact_sheet(tmp_path / name, [Cell(GREEN, "a cat", "a cat", "right")], title="Pictures")
    with Image.open(tmp_path / name) as image:
        assert image.format == kind
    assert count(pixels(tmp_path / name), (10, 200, 30)) > 98**2


def test_unknown_suffixes_are_refused_with_the_known_ones(tmp_path: Path) -> None:
    message = r"expected a name that ends with \.png, \.jpg, \.jpeg or \.webp, got \.gif"
    with pytest.raises(ValueError, match=message):
        draw_contact_sheet(tmp_path / "s.gif", [Cell(GREEN, "a cat", "a cat", "right")], title="Pictures")
    with pytest.raises(ValueError, match=message):
        plot_loss(tmp_path / "s.gif", [(1, 2.0)], title="a run")
    with pytest.raises(ValueError, match="at most 16383 pixels in each direction in WEBP, got 1 x 20000"):
        write_image(tmp_path / "s.webp", Image.new("RGB", (1, 20_000)), drawing=True)
    assert list(tmp_path.iterdir()) == []


def test_characters_that_the_font_lacks_come_from_the_machines_fonts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = FontBuilder(1000, isTTF=True)
    pen = TTGlyphPen(None)
    for point, move in (((0, 0), pen.moveTo), ((0, 700), pen.lineTo), ((900, 700), pen.lineTo), ((900, 0), pen.lineTo)):
        move(point)
    pen.closePath()
    block = pen.glyph()
    builder.setupGlyphOrder([".notdef", "block"])
    builder.setupCharacterMap({ord("猫"): "block"})
    builder.setupGlyf({".notdef": block, "block": block})
    builder.setupHorizontalMetrics({".notdef": (1000, 0), "block": (1000, 0)})
    builder.setupHorizontalHeader(ascent=800, descent=-200)
    builder.setupNameTable({"familyName": "Blocks"})
    builder.setupOS2()
    builder.setupPost()
    builder.save(tmp_path / "blocks.ttf")
    (tmp_path / "broken.ttf").write_bytes(b"no font")
    files = [str(tmp_path / "broken.ttf"), str(tmp_path / "blocks.ttf")]
    monkeypatch.setattr(typeface, "_system_fonts", lambda: files)
    typeface._file_with.cache_clear()
    try:
        face = typeface.Typeface(20)
        assert face.width("a猫猫b") == face.width("a") + 40 + face.width("b")
        assert face.wrap("猫" * 10, 90) == ["猫" * 4, "猫" * 4, "猫" * 2]
        assert face.width("a\ue000") == face.width("a") + face.width("\ue001")  # no font has these: a box each
        image = Image.new("L", (60, 30))
        face.draw(ImageDraw.Draw(image), 0, 20, "猫", "white")
        assert np.asarray(image)[8:19, 1:17].min() == 255  # the block
    finally:
        typeface._file_with.cache_clear()


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
    assert wrong.shape[0] == right.shape[0] + 20


@pytest.mark.parametrize(
    ("cells", "options", "error", "message"),
    [
        ([], {}, ValueError, "cells: expected at least one picture"),
        ([Cell(GREEN, "", "", "right")], {"columns": 0}, ValueError, "columns: expected at least 1, got 0"),
        ([Cell(GREEN.astype(np.float32), "", "", "right")], {}, TypeError, "float32"),
        ([Cell(GREEN[..., 0], "", "", "right")], {}, ValueError, r"\(48, 48\)"),
    ],
)
def test_invalid_sheets_are_refused_and_write_no_file(cells, options, error, message, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=message):
        draw_contact_sheet(tmp_path / "sheet.png", cells, title="Pictures", **options)
    assert list(tmp_path.iterdir()) == []
