"""The script from COCO's annotation file to scores, on a small file of the same form."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np

SCRIPT = Path(__file__).parents[2] / "examples" / "coco_captions.py"
THINGS = ("cat", "dog", "bus", "clock", "horse")
PLACES = ("on a table", "in the street", "near a tree", "by the sea")


def annotation_file(path):
    scenes = [(thing, place) for thing in THINGS for place in PLACES] * 3
    images = [{"id": 100 + i, "file_name": f"{i}.jpg"} for i in range(len(scenes))]
    annotations = [
        {"id": 2 * i + k, "image_id": 100 + i, "caption": text}
        for i, (thing, place) in enumerate(scenes)
        for k, text in enumerate((f"A {thing} {place}.", f"There is a {thing}, {place}"))
    ]
    path.write_text(json.dumps({"images": images, "annotations": annotations}), encoding="utf-8")


def test_from_annotations_to_scores(tmp_path):
    annotation_file(tmp_path / "captions.json")
    settings = ["--out", tmp_path / "out", "--epochs", "3", "--hidden", "32"]
    done = subprocess.run(
        [sys.executable, SCRIPT, tmp_path / "captions.json", *settings], capture_output=True, text=True, timeout=800
    )
    assert done.returncode == 0, done.stderr
    assert "the scores below say nothing about seeing" in done.stdout
    for word in ("$ capgpu prepare", "$ capgpu train", "$ capgpu eval", "$ capgpu score", "CIDEr"):
        assert word in done.stdout
    results = json.loads((tmp_path / "out" / "results.json").read_text(encoding="utf-8"))
    assert results
    assert {entry["image_id"] for entry in results} <= set(range(100, 160))


def test_features_are_of_the_words_and_repeatable():
    specification = importlib.util.spec_from_file_location("coco_captions", SCRIPT)
    script = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(script)
    captions = {1: ["A cat sits."], 2: ["A cat sits!"], 3: ["Two red buses."]}
    features = script.features_from_words(captions)
    assert features.dtype == np.float32
    assert np.array_equal(features, script.features_from_words(captions))
    cosine = np.corrcoef(features)
    assert cosine[0, 1] > 0.3 > cosine[0, 2]
