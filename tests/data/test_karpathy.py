"""Karpathy's splits: what is read, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgpu.data.karpathy import karpathy_source
from capgpu.data.text_files import DataFileError
from oracles.sources import check_source, json_values, karpathy_annotations, read_or_refused

CONTENT = karpathy_annotations({391895: "test", 7: "restval", "x": "val", 522418: "train"})
PATH = Path("dataset_coco.json")


def changed(change: Any) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(json.dumps(CONTENT))
    change(content["images"])
    return content


def test_pictures_stand_in_their_splits_with_cocos_ids() -> None:
    source = karpathy_source(CONTENT, PATH, Path("coco"))
    check_source(source)
    assert {name: own.image_ids for name, own in source.splits.items()} == {
        "test": [391895],
        "train": [7, 522418],
        "val": ["x"],
    }
    assert source.splits["test"].files == [Path("coco/val2014/391895.jpg")]
    assert source.splits["test"].captions == [["A dog."]]
    assert karpathy_source(CONTENT, PATH, None).splits["test"].files is None


@pytest.mark.parametrize("filepath", ["missing", ""])
def test_flickrs_files_have_neither_cocoid_nor_filepath(filepath: str) -> None:
    def change(images: list[dict[str, Any]]) -> None:
        for image in images:
            del image["cocoid"], image["filepath"]
            if not filepath:
                image["filepath"] = filepath

    source = karpathy_source(changed(change), PATH, Path("flickr8k"))
    assert source.splits["train"].image_ids == [1, 3]
    assert source.splits["val"].files == [Path("flickr8k/x.jpg")]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (
            lambda images: images[1].update(cocoid=391895),
            "images[1]: expected each id once, got 391895, as in images[0]",
        ),
        (lambda images: images[1].update(cocoid=None), "images[1].cocoid: expected an integer or a text, got None"),
        (lambda images: images[1].pop("split"), "images[1].split: expected a text, got None"),
        (
            lambda images: images[1].update(split="a b"),
            "images[1].split: expected a split such as train, val or test, got 'a b'",
        ),
        (lambda images: images[1].pop("filename"), "images[1].filename: expected a text, got None"),
        (lambda images: images[1].update(filepath=None), "images[1].filepath: expected a text, got None"),
        (lambda images: images[1].update(filepath=["a"]), "images[1].filepath: expected a text, got ['a']"),
        (lambda images: images[1].update(sentences=7), "images[1]: expected a non-empty list sentences"),
        (lambda images: images[1]["sentences"].append("a"), "images[1]: sentences[1]: expected an object, got str"),
        (
            lambda images: images[1]["sentences"][0].update(raw=7),
            "images[1]: sentences[0].raw: expected a text, got 7",
        ),
        (lambda images: images[1]["sentences"][0].pop("raw"), "images[1]: sentences[0].raw: expected a text, got none"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: Any, place: str) -> None:
    with pytest.raises(DataFileError) as error:
        karpathy_source(changed(change), PATH, Path("coco"))
    assert f"{PATH}: {place}" in str(error.value)


KEYS = ("images", "filename", "filepath", "imgid", "cocoid", "split", "sentences", "raw")


@given(
    json_values(*KEYS),
    st.sampled_from([(), ("images",), ("images", 1), *(("images", 1, key) for key in KEYS[1:-1])])
    | st.sampled_from([("images", 1, "sentences", 0), ("images", 1, "sentences", 0, "raw")]),
    st.booleans(),
)
def test_any_value_in_any_place_is_read_or_refused(value: Any, place: tuple[Any, ...], pictures: bool) -> None:
    content = {"": json.loads(json.dumps(CONTENT))}
    inner: Any = content
    for key in ("", *place)[:-1]:
        inner = inner[key]
    inner[("", *place)[-1]] = value
    read_or_refused(lambda: karpathy_source(content[""], PATH, Path("coco") if pictures else None), PATH)


def test_one_file_under_two_ids_is_refused(tmp_path: Path) -> None:
    content = karpathy_annotations({1: "train", 2: "test"})
    for image in content["images"]:
        image["filename"] = "same.jpg"
    with pytest.raises(DataFileError, match=r"expected distinct files, got .*same.jpg for images\[0\] and images\[1\]"):
        karpathy_source(content, tmp_path / "k.json", tmp_path)
