"""Files in COCO's results format: written, read back, and refused with file and place."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from capgpu.data.coco_json import CocoCaptions
from capgpu.data.coco_results import match_results, read_coco_results, write_coco_results
from capgpu.data.text_files import DataFileError

texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\x00"), min_size=1).filter(
    lambda text: text.strip() == text and text
)
ids = st.integers(-(2**70), 2**70) | texts
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["image_id", "caption", "id", "annotations"]) | st.text(max_size=3), inner)
    ),
    max_leaves=12,
)
in_one_folder = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


@in_one_folder
@given(st.dictionaries(ids, texts, min_size=1, max_size=5))
def test_what_is_written_is_read_back(tmp_path, captions):
    write_coco_results(tmp_path / "r.json", list(captions), list(captions.values()))
    read = read_coco_results(tmp_path / "r.json")
    assert list(read.items()) == list(captions.items())
    entries = json.loads((tmp_path / "r.json").read_text(encoding="utf-8"))
    assert entries == [{"image_id": own, "caption": text} for own, text in captions.items()]


@in_one_folder
@given(json_values, st.integers(0, 60), st.binary(max_size=2))
def test_any_file_is_read_or_refused_by_name(tmp_path, value, cut, noise):
    content = json.dumps(value).encode()
    refusals = []
    for damaged in (content, content[:cut], content[:cut] + noise + content[cut:]):
        (tmp_path / "r.json").write_bytes(damaged)
        try:
            captions = read_coco_results(tmp_path / "r.json")
        except DataFileError as error:
            refusals.append(str(error))
        else:
            assert all(isinstance(text, str) for text in captions.values())
    assert all(refusal.startswith(str(tmp_path / "r.json")) for refusal in refusals)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b'[{"image_id": 1, "caption": "a dog"}, {"image_id"', r"line 1, column 50.*truncated"),
        (b'[\n{"image_id": 1, "caption": "a d\xf6g"}\n]', r"line 2: byte 33 \(0xf6\) is not UTF-8"),
        (b'{"images": [], "annotations": []}', "expected a list of .* got dict.*looks like an annotation file"),
        (b"[]", "expected at least one caption"),
        (b'[{"image_id": 1, "caption": "a"}, ["b"]]', r"entry \[1\]: expected an object.*got .*list"),
        (b'[{"caption": "a"}]', r"entry \[0\]: expected image_id and caption, got no image_id"),
        (b'[{"id": 3}]', r"entry \[0\]: expected image_id and caption, got no image_id and no caption"),
        (b'[{"image_id": 1.5, "caption": "a"}]', r"entry \[0\].image_id: expected an integer or a text, got 1.5"),
        (b'[{"image_id": true, "caption": "a"}]', r"entry \[0\].image_id: expected an integer or a text, got True"),
        (b'[{"image_id": 1, "caption": ["a"]}]', r"entry \[0\].caption: expected a text.*got .*\['a'\]"),
        (b'[{"image_id": 1, "caption": null}]', r"entry \[0\].caption: expected a text, got None"),
        (
            b'[{"image_id": 7, "caption": "a"}, {"image_id": 8, "caption": "a"}, {"image_id": 7, "caption": "b"}]',
            r"entry \[2\]: expected each image_id once, got 7, as in entry \[0\]",
        ),
    ],
)
def test_damaged_results_are_refused_with_their_place(content, says, tmp_path):
    (tmp_path / "results.json").write_bytes(content)
    with pytest.raises(DataFileError, match=rf"results\.json.*{says}"):
        read_coco_results(tmp_path / "results.json")


def test_empty_captions_are_read(tmp_path):
    (tmp_path / "r.json").write_text('[{"image_id": 1, "caption": " "}, {"image_id": 2, "caption": "a"}]')
    assert read_coco_results(tmp_path / "r.json") == {1: "", 2: "a"}


def test_what_could_not_be_read_back_is_not_written(tmp_path):
    with pytest.raises(ValueError, match="captions: expected one for each of 2 image ids, got 1"):
        write_coco_results(tmp_path / "r.json", [1, 2], ["a"])
    with pytest.raises(ValueError, match="image_ids: expected each id once, got 5 twice"):
        write_coco_results(tmp_path / "r.json", [5, 6, 5], ["a", "b", "c"])
    assert not list(tmp_path.iterdir())


@pytest.mark.timeout(30)
def test_many_entries_take_no_longer_than_they_must(tmp_path):
    ids = list(range(100_000))
    with pytest.raises(ValueError, match="image_ids: expected each id once, got 99999 twice"):
        write_coco_results(tmp_path / "r.json", [*ids, 99_999], ["a"] * 100_001)
    write_coco_results(tmp_path / "r.json", ids, ["a"] * len(ids))
    results = read_coco_results(tmp_path / "r.json")
    truth = CocoCaptions(ids, [None] * len(ids), [["a"]] * len(ids))
    assert len(match_results(results, truth, results_name="r").references) == 100_000


TRUTH = CocoCaptions([1, 2, 3], [None] * 3, [["a dog"], ["a cat", "the cat"], ["a cow"]])


def test_truths_come_in_the_order_of_the_results():
    results = {3: "x", 1: "y", 2: "z"}
    matched = match_results(results, TRUTH, results_name="r")
    assert (matched.captions, matched.notes) == (results, [])
    assert matched.references == [["a cow"], ["a dog"], ["a cat", "the cat"]]


def test_a_subset_is_what_both_files_have():
    matched = match_results({9: "x", 2: "z"}, TRUTH, results_name="r", subset=True)
    assert (matched.captions, matched.references) == ({2: "z"}, [["a cat", "the cat"]])
    assert matched.notes == ["Subset: 1 pictures are in both files, 1 only in the results, 2 only in the annotations."]


def test_pictures_without_a_true_caption_are_left_out():
    truth = CocoCaptions([1, 2, 3], [None] * 3, [["a dog"], [], ["a cow"]])
    for results in ({1: "x", 3: "y"}, {1: "x", 2: "w", 3: "y"}):
        matched = match_results(results, truth, results_name="r")
        assert (matched.captions, matched.references) == ({1: "x", 3: "y"}, [["a dog"], ["a cow"]])
        assert matched.notes == ["1 annotated pictures without a true caption are left out."]
    with pytest.raises(DataFileError, match="expected captions of pictures with true captions, got none"):
        match_results({2: "w"}, truth, results_name="r", subset=True)
    with pytest.raises(
        DataFileError, match="a caption of each of 2 captioned images, got none of 1, the first with id 3"
    ):
        match_results({1: "x"}, truth, results_name="r")


@pytest.mark.parametrize("results", [{"1": "x", "002": "y", "3": "z"}, {"0001": "x", 2: "y", "3": "z"}])
def test_ids_as_text_or_with_leading_zeros_are_numbers(results):
    if 2 in results:  # a common id: nothing is converted
        with pytest.raises(DataFileError, match="got 2 of 3 of other images"):
            match_results(results, TRUTH, results_name="r")
        return
    matched = match_results(results, TRUTH, results_name="r")
    assert matched.captions == {1: "x", 2: "y", 3: "z"}
    assert "compared as numbers" in matched.notes[0]


def test_annotations_with_ids_as_text_are_found_by_numbers():
    truth = CocoCaptions(["007", "8"], [None] * 2, [["a"], ["b"]])
    assert match_results({7: "x", 8: "y"}, truth, results_name="r").captions == {"007": "x", "8": "y"}


def test_one_picture_under_two_spellings_is_refused():
    with pytest.raises(DataFileError, match="expected each image_id once, got '01' a second time"):
        match_results({"1": "x", "01": "y"}, TRUTH, results_name="r", subset=True)


@pytest.mark.parametrize(
    ("results", "says"),
    [
        (
            {1: "a", 2: "b"},
            "r.json: expected a caption of each of 3 captioned images, got none of 1, the first with id 3.*--subset",
        ),
        ({1: "a", 9: "b", 8: "c"}, r"got 2 of 3 of other images, the first in entry \[1\] with image_id 9"),
        ({"x1": "a"}, "got 1 of 1 of other images, .*image_id 'x1'.*--subset"),
    ],
)
def test_results_of_other_pictures_are_refused(results, says):
    with pytest.raises(DataFileError, match=says):
        match_results(results, TRUTH, results_name="r.json")
