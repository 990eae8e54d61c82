"""Data sets beside the project that tests read where they are present."""

from __future__ import annotations

import functools
import json
from pathlib import Path

import pytest


def shared_data(name: str) -> Path:
    """Find ``shared/data/<name>`` beside the project or one of the folders around it; skip the test without it."""
    for folder in Path(__file__).resolve().parents:
        path = folder / "shared" / "data" / name
        if path.is_file():
            return path
    pytest.skip(f"there is no shared/data/{name} beside the project")


@functools.cache
def coco_captions() -> dict[int, list[str]]:
    """Read the captions of each image of COCO's 2017 validation set, images in the order of their ids."""
    captions: dict[int, list[str]] = {}
    for entry in json.loads(shared_data("captions_val2017.json").read_text(encoding="utf-8"))["annotations"]:
        captions.setdefault(entry["image_id"], []).append(entry["caption"])
    return dict(sorted(captions.items()))
