"""Sheets of data sets: photographs fill their cards, and pictures without true captions are not judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capgpu.data.datasets import Dataset
from capgpu.report import dataset_sheets


@pytest.fixture
def photographs() -> Dataset:
    """Six photographs, the third without a true caption."""
    names = ["a cat", "a dog", "a red bus", "two boats", "a man on a horse"]
    return Dataset(
        "photographs",
        {
            "val_features": np.zeros((6, 2)),
            "val_captions": np.zeros((5, 4), dtype=np.int64),
            "val_image_idxs": np.array([0, 1, 3, 4, 5]),
            "val_texts": names,
        },
        thumbnail=lambda split, i: np.full((3 + i, 7, 3), i, dtype=np.uint8),
        photographs=True,
    )


def test_pictures_without_true_captions_are_left_out(
    photographs: Dataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    captions = ["a cat", "a cat", "anything", "a red bus", "boats", "a horse"]
    drawn: list[dict[str, Any]] = []
    monkeypatch.setattr(
        dataset_sheets, "draw_contact_sheet", lambda path, cells, **options: drawn.append({"cells": cells, **options})
    )
    dataset_sheets.draw_spaced_sheet(tmp_path / "s.png", photographs, "val", captions, 18)
    dataset_sheets.draw_ranked_sheet(tmp_path / "r.png", photographs, "val", captions, 18, title="LSTM")
    for sheet in drawn:
        shown = {int(cell.picture[0, 0, 0]) for cell in sheet["cells"]}
        assert shown <= {0, 1, 3, 4, 5}
        assert len(shown) == len(sheet["cells"])
        assert sheet["fill"]
        assert set(sheet["legend"]) == {"right", "wrong"}
    assert [(len(sheet["cells"]), sheet["title"]) for sheet in drawn] == [(5, "val"), (3, "LSTM")]
    assert drawn[0]["subtitle"] == "5 of 6 pictures of val"
    assert sorted(drawn[1]["headings"]) == [0, 1, 2]


def test_a_sheet_of_photographs_is_drawn(photographs: Dataset, tmp_path: Path) -> None:
    captions = {2: "anything", 5: "a man on a horse"}
    dataset_sheets.draw_captioned(tmp_path / "s.webp", photographs, "val", captions)
    assert (tmp_path / "s.webp").read_bytes()[8:12] == b"WEBP"
