"""COCO's annotation format: what is read, and what is refused with which words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgpu.data.coco_json import coco_source, read_coco_captions
from capgpu.data.text_files import DataFileError
from oracles.folders import coco_annotations, write_json

CONTENT = coco_annotations({7: ["a cat", "a black cat"], "x": ["a dog"], 3: ["two birds"]})


def changed(change: Any) -> dict[str, Any]:
    content = json.loads(json.dumps(CONTENT))
    change(content)
    return content


def test_captions_stand_with_their_pictures_in_the_order_of_the_file(tmp_path: Path) -> None:
    content = changed(lambda c: c["annotations"].reverse())
    read = read_coco_captions(write_json(tmp_path / "captions.json", content))
    assert read.image_ids == [7, "x", 3]
    assert read.file_names == ["7.png", "x.png", "3.png"]
    assert read.captions == [["a black cat", "a cat"], ["a dog"], ["two birds"]]


@pytest.mark.parametrize(
    ("change", "place"),
    [
        (lambda c: c["images"].append({"id": "x"}), "images[3]: expected each id once, got 'x', as in images[1]"),
        (lambda c: c["annotations"][1].update(caption=7), "annotations[1].caption: expected a text, got 7"),
        (
            lambda c: c["annotations"][1].update(caption="\ud800"),
            "annotations[1].caption: expected a text without NUL and surrogates, got '\\ud800'",
        ),
        (lambda c: c["annotations"][1].pop("caption"), "annotations[1]: expected a caption, got none"),
        (lambda c: c["annotations"][2].update(image_id=8), "annotations[2]: expected an image_id of images, got 8"),
        (
            lambda c: c["annotations"][2].update(image_id=True),
            "annotations[2].image_id: expected an integer or a text, got True",
        ),
        (lambda c: c["images"][0].pop("id"), "images[0].id: expected an integer or a text, got None"),
        (lambda c: c["images"].insert(0, "cat"), "images[0]: expected an object, got str"),
        (
            lambda c: c.pop("annotations"),
            "expected a non-empty list annotations of captions in JSON, got keys 'images'",
        ),
        (lambda c: c.update(images=[]), "expected a non-empty list images"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(change: Any, place: str, tmp_path: Path) -> None:
    path = write_json(tmp_path / "captions.json", changed(change))
    with pytest.raises(DataFileError) as error:
        read_coco_captions(path)
    assert place in str(error.value)
    assert str(path) in str(error.value)


def test_a_file_cut_short_is_named_with_line_and_column(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    text = json.dumps(CONTENT, indent=1)
    path.write_text(text[: len(text) // 2])
    with pytest.raises(DataFileError, match=r"captions.json, line \d+, column \d+: .*truncated"):
        read_coco_captions(path)


def test_a_byte_that_is_not_utf8_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_bytes(json.dumps(CONTENT, indent=1).encode().replace(b"black", b"bl\xe4ck"))
    with pytest.raises(DataFileError, match=r"captions.json, line \d+: byte \d+ \(0xe4\) is not UTF-8"):
        read_coco_captions(path)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"images": ' + "1" * 5000 + "}", "", "nul", "\ufeff{"])
def test_json_that_cannot_be_read_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "captions.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(DataFileError, match=r"captions\.json"):
        read_coco_captions(path)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "caption", "x"]), inner),
    max_leaves=8,
)
entries = st.lists(
    st.fixed_dictionaries({}, optional=dict.fromkeys(["id", "image_id", "caption", "file_name"], anything)) | anything
)


def complaint(path: Path) -> str | None:
    """Say what the reader has against a file, in the one kind of error it may raise."""
    try:
        assert read_coco_captions(path).captions
    except DataFileError as error:
        return str(error)
    return None


@given(st.dictionaries(st.sampled_from(["images", "annotations", "info"]), entries) | anything)
def test_no_json_raises_anything_but_the_documented_error(
    tmp_path_factory: pytest.TempPathFactory, content: Any
) -> None:
    path = write_json(tmp_path_factory.getbasetemp() / "captions.json", content)
    assert str(path) in (complaint(path) or str(path))


@given(st.integers(0, 400), st.binary(max_size=4))
def test_no_damage_raises_anything_but_the_documented_error(
    tmp_path_factory: pytest.TempPathFactory, place: int, damage: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.json"
    whole = json.dumps(CONTENT).encode()
    path.write_bytes(whole[:place] + damage + whole[place + len(damage) :])
    assert str(path) in (complaint(path) or str(path))


def test_one_file_under_two_ids_is_refused(tmp_path: Path) -> None:
    content = coco_annotations({1: ["a dog"], 2: ["a cat"], 3: ["a cow"]})
    content["images"][2]["file_name"] = "./1.png"
    coco_source(content, tmp_path / "c.json", None)
    with pytest.raises(DataFileError, match=r"expected distinct files, got .*1.png for images\[0\] and images\[2\]"):
        coco_source(content, tmp_path / "c.json", tmp_path)


def test_empty_captions_and_images_without_any_are_counted_and_keep_their_places(tmp_path: Path) -> None:
    content = coco_annotations({1: ["a dog", " "], 2: [], 3: ["a cow"], 4: ["a cat"]})
    content["annotations"].append({"image_id": 4, "caption": None})
    source = coco_source(content, tmp_path / "c.json", None)
    assert source.splits["all"].captions == [["a dog"], [], ["a cow"], ["a cat"]]
    assert source.notes == (
        "captions without text, omitted: 2, the first in a caption of the image 1",
        "images without captions, omitted: 1, the first with the id 2",
    )
    for annotation in content["annotations"][2:]:
        annotation["caption"] = ""
    with pytest.raises(DataFileError, match=r"c\.json: expected captions, got empty ones for 4 of 5, the first in "):
        coco_source(content, tmp_path / "c.json", None)
