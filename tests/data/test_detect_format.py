"""A source by its path: its format follows from its files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given

from capgpu.data.detect_format import KINDS, read_source
from capgpu.data.text_files import DataFileError
from oracles.folders import coco_annotations, write_json
from oracles.sources import check_source, json_values, karpathy_annotations, read_or_refused

COCO = coco_annotations({7: ["a cat"], 8: ["a dog"]})
KARPATHY = karpathy_annotations({7: "train", 8: "val"})


@pytest.mark.parametrize(
    ("name", "content", "kind"),
    [
        ("captions.json", json.dumps(COCO), "coco"),
        ("DATASET.JSON", json.dumps(KARPATHY), "karpathy"),
        ("a.csv", "image,caption\n7.jpg,a cat\n8.jpg,a dog\n", "folder"),
    ],
)
def test_the_form_is_detected_from_the_files(name: str, content: str, kind: str, tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text(content)
    for asked in (None, kind):
        source = read_source(path, asked, tmp_path / "pictures")
        check_source(source)
        assert (source.kind, source.path) == (kind, path)
        files = [file for pictures in source.splits.values() for file in pictures.files or ()]
        assert len(files) == 2
        assert all(file.is_relative_to(tmp_path / "pictures") for file in files)
    for other in {*KINDS} - {kind}:
        with pytest.raises(DataFileError, match=name):
            read_source(path, other)
    with pytest.raises(ValueError, match=r"kind: expected one of coco.*got .*'cs231n'"):
        read_source(path, "cs231n")


def test_a_folder_is_known_by_its_file_of_captions(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,caption\n7.jpg,a cat\n")
    source = read_source(tmp_path)
    assert (source.kind, source.path) == ("folder", tmp_path / "captions.csv")


def test_pictures_without_names_are_missed_only_where_they_are_looked_for(tmp_path: Path) -> None:
    content = {**COCO, "images": [{"id": 7, "file_name": "7.jpg"}, {"id": 8}]}
    path = write_json(tmp_path / "captions.json", content)
    assert read_source(path).splits["all"].files is None
    with pytest.raises(DataFileError, match=r"captions.json: images\[1\]: expected a file_name"):
        read_source(path, folder=tmp_path)


@pytest.mark.parametrize("content", [[], 7, {}, {"images": []}, {"images": [7]}, {"images": [{"id": 7}]}, [COCO]])
def test_json_of_another_form_is_refused(content: Any, tmp_path: Path) -> None:
    with pytest.raises(DataFileError, match=r"captions.json: expected COCO's annotation format"):
        read_source(write_json(tmp_path / "captions.json", content))


@given(json_values("images", "annotations", "sentences", "id", "image_id", "caption"))
def test_any_json_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, value: Any) -> None:
    path = write_json(tmp_path_factory.getbasetemp() / "any.json", value)
    for kind in (None, *KINDS):
        read_or_refused(lambda kind=kind: read_source(path, kind), path)


def test_json_cut_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "cut.json"
    for content in (COCO, KARPATHY):
        whole = json.dumps(content)
        for size in range(0, len(whole), 3):
            path.write_text(whole[:size])
            with pytest.raises(DataFileError, match=r"cut.json, line \d+.*truncated"):
                read_source(path)
