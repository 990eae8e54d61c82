"""The emoji as a plain folder: every picture once, with its name and split in a CSV file."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest
from PIL import Image

sys.path.append(str(Path(__file__).resolve().parents[2] / "tools"))

import emoji_folder

NAMES = {"1F600": "grinning face", "1F98A": 'fox, "red"', "2B50": "star: yellow"}
PARTS = {"train": [2, 0], "test": [1]}


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Replace the downloads by three emoji of different colours."""
    pictures, names, derived = (tmp_path / name for name in ("pictures", "names", "derived"))
    images = pictures / "img" / "google" / "64"
    images.mkdir(parents=True)
    entries = []
    for index, code in enumerate(NAMES):
        Image.new("RGBA", (64, 64), (index * 90, 0, 0, 255)).save(images / f"{code.lower()}.png")
        entries.append({"category": "Objects", "unified": code, "has_img_google": True, "image": f"{code.lower()}.png"})
    (pictures / "emoji.json").write_text(json.dumps(entries))
    names_by_character = {chr(int(code, 16)): {"tts": [name]} for code, name in NAMES.items()}
    for folder, kind, entry in ((names, "annotations", names_by_character), (derived, "annotationsDerived", {})):
        file = folder / kind / "en" / "annotations.json"
        file.parent.mkdir(parents=True)
        file.write_text(json.dumps({kind: {"annotations": entry}}))
    folders = iter((pictures, names, derived))
    monkeypatch.setattr(emoji_folder.packages, "fetch", lambda package, work: next(folders))
    monkeypatch.setattr(emoji_folder, "split", lambda emoji: PARTS)
    return images


def test_every_picture_is_written_with_its_name_and_split(packages: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert emoji_folder.write_folder(tmp_path, out) == {"train": 2, "test": 1}
    with (out / "captions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    # the emoji are in the order of their code points, the splits in the order of their indices
    assert [(row["caption"], row["split"]) for row in rows] == [
        ('fox, "red"', "train"),
        ("star: yellow", "train"),
        ("grinning face", "test"),
    ]
    assert {path.name for path in (out / "images").iterdir()} == {row["image"] for row in rows}
    for row in rows:
        assert (out / "images" / row["image"]).read_bytes() == (packages / row["image"]).read_bytes()
