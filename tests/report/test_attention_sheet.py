"""Attention sheets: light falls where the weights are, and every word has its picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from capgpu.captions import Caption
from capgpu.report.attention_sheet import AttentionPicture, attention_map, draw_attention_sheet

WHITE = np.full((30, 60, 3), 255, np.uint8)


def caption(weights: Any) -> Caption:
    rows = tuple(tuple(map(float, row)) for row in weights)
    words = tuple(f"word{i}" for i in range(len(rows)))
    return Caption(" ".join(words), words, (-0.5,) * len(rows), attention=rows)


@pytest.mark.parametrize("side", [2, 4, 7])
@pytest.mark.parametrize("fit", ["stretch", "crop", "pad"])
def test_the_brightest_place_is_the_middle_of_the_cell_with_the_most_weight(side: int, fit: Any) -> None:
    width, height = 28 * side, 56 * side
    box = {
        "stretch": (0, 0, width, height),
        "crop": (0, 14 * side, width, width),
        "pad": (-14 * side, 0, height, height),
    }
    left, top, box_width, box_height = box[fit]
    for cell in range(side * side):
        row, column = divmod(cell, side)
        x, y = left + (column + 0.5) * box_width / side, top + (row + 0.5) * box_height / side
        light = attention_map(np.eye(side * side)[cell], width, height, fit)
        assert light.shape == (height, width)
        if 0 <= x < width:
            found = np.unravel_index(light.argmax(), light.shape)
            assert abs(found[1] - x) <= max(box_width / side / 2, 1)
            assert abs(found[0] - y) <= max(box_height / side / 2, 1)
            assert light[int(y), int(x)] > 0.9
    if fit == "crop":  # nothing is seen above and below
        assert attention_map(np.ones(side * side), width, height, fit)[: 14 * side].max() == 0


def test_equal_weights_leave_the_picture_as_it_is(tmp_path: Path) -> None:
    np.testing.assert_allclose(attention_map(np.full(9, 1 / 9), 50, 40), 1, atol=1e-6)


def test_a_sheet_has_a_card_for_each_word_and_wraps_its_rows(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)

    def size(words: int) -> tuple[int, int]:
        weights = rng.dirichlet(np.ones(4), size=words)
        draw_attention_sheet(tmp_path / "sheet.png", [AttentionPicture(WHITE, caption(weights))])
        with Image.open(tmp_path / "sheet.png") as sheet:
            return sheet.size

    narrow, wide, two_rows = size(3), size(5), size(6)
    assert narrow[0] < wide[0] == two_rows[0]
    assert narrow[1] == wide[1] < two_rows[1]


def test_the_part_without_weight_is_dark(tmp_path: Path) -> None:
    draw_attention_sheet(tmp_path / "sheet.png", [AttentionPicture(WHITE, caption([[1, 0, 0, 0]]))])
    with Image.open(tmp_path / "sheet.png") as sheet:
        pixels = np.asarray(sheet.convert("L")).astype(int)
    card = pixels[:, 20 + 176 + 12 : 20 + 176 + 12 + 176]  # the second one
    last = np.flatnonzero((card < 100).sum(axis=1) > 100).max()  # of the shaded picture
    picture = card[last - 88 + 1 : last + 1]
    assert picture[0, 5] > 240
    assert picture[-5, -5] < 90


@pytest.mark.parametrize(
    ("pictures", "words"),
    [
        ([], "expected at least one"),
        ([AttentionPicture(WHITE, Caption("a", ("a",), (-1.0,)))], "attention weights for each of its 1 words, got 0"),
        ([AttentionPicture(WHITE, caption([[0.5, 0.5, 0]]))], "square grid"),
        ([AttentionPicture(WHITE, caption([[0, 0, 0, 0]]))], "one of them above"),
        ([AttentionPicture(WHITE[:, :, 0], caption([[1]]))], "expected shape"),
        ([AttentionPicture(WHITE / 255.0, caption([[1]]))], "expected dtype uint8"),
    ],
)
def test_what_cannot_be_drawn_is_refused(pictures: Any, words: str, tmp_path: Path) -> None:
    with pytest.raises((ValueError, TypeError), match=words):
        draw_attention_sheet(tmp_path / "sheet.png", pictures)
    assert not (tmp_path / "sheet.png").exists()
