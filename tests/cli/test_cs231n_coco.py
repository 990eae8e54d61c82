"""The command on the folder of the cs231n course's COCO set: trained on, resumed, captioned, scored as it is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from capgpu.checkpoint import load_model
from capgpu.data.datasets import open_dataset
from oracles.commands import done, refused, run
from oracles.course_files import WORDS, course_arrays, write_course_files
from oracles.folders import prepared_folder

TINY = ["--hidden", "8", "--wordvec", "8", "--batch-size", "5", "--epochs", "2", "--seed", "3"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_course_files(tmp_path / "coco_captioning", course_arrays())


@pytest.fixture
def trained(data: Path, tmp_path: Path) -> Path:
    done("train", "--data", data, "--out", tmp_path / "run", *TINY)
    return tmp_path / "run"


def test_training_recognizes_the_folder_by_its_files(trained: Path, data: Path) -> None:
    settings = json.loads((trained / "config.json").read_text())["settings"]
    assert settings["data"] == str(data)
    model = load_model(trained)
    assert model.word_to_idx == {word: i for i, word in enumerate(WORDS)}
    assert model.params["W_proj"].shape == (6, 8)  # the short features, where there are both


def test_training_takes_the_long_features_where_they_are_alone(data: Path, tmp_path: Path) -> None:
    for split in ("train", "val"):
        (data / f"{split}2014_vgg16_fc7_pca.h5").unlink()
    done("train", "--data", data, "--out", tmp_path / "run", *TINY)
    assert load_model(tmp_path / "run").params["W_proj"].shape == (12, 8)


def test_the_val_split_is_captioned_and_scored(trained: Path, data: Path, tmp_path: Path) -> None:
    truths = open_dataset(data).truths("val")
    words = done("caption", "--run", trained, "--split", "val", "--indices", "2,0").split()
    assert words[0] == "val"
    assert {*truths[2][0].split(), *truths[0][0].split(), "2", "0"} <= {*words}
    out = done("eval", "--run", trained, "--split", "val", "--json", tmp_path / "e", "--results", tmp_path / "r")
    assert "val: 3 pictures" in out
    assert len(json.loads((tmp_path / "e").read_text())["captions"]) == 3
    assert [entry["image_id"] for entry in json.loads((tmp_path / "r").read_text())] == [0, 1, 2]


def test_a_word_that_captions_do_not_tell_is_never_right(data: Path) -> None:
    arrays = course_arrays()
    arrays["val_captions"][:] = np.array([1, 4, 3, 2] + 13 * [0])  # a <UNK>
    write_course_files(data, arrays)
    dataset = open_dataset(data)
    assert dataset.true_words("val") == 3 * [3 * [["a", "<unknown>"]]]
    assert dataset.tokenize("a <UNK>") not in dataset.true_words("val")[0]
    assert dataset.tokenize("a <unknown>") == ["a", "<unknown>"]


def test_pictures_without_captions_are_not_scored_and_are_no_neighbours(data: Path, tmp_path: Path) -> None:
    arrays = course_arrays()
    for split, picture in (("train", 4), ("val", 1)):
        image_idxs = arrays[f"{split}_image_idxs"]
        image_idxs[image_idxs == picture] = 0
    arrays["val_features"][2] = arrays["train_features"][4]  # nearest to a picture that has nothing to say
    write_course_files(data, arrays)
    done("train", "--data", data, "--out", tmp_path / "run", *TINY)
    out = done("eval", "--run", tmp_path / "run", "--split", "val", "--json", tmp_path / "e")
    assert "val: 2 pictures" in out
    assert "1 more pictures have no true caption" in out
    captions = json.loads((tmp_path / "e").read_text())["captions"]
    assert [len(entry["truth"]) for entry in captions] == [6, 0, 3]
    assert all(entry["nearest_neighbour"] for entry in captions)
    assert "none" in done("caption", "--run", tmp_path / "run", "--split", "val")


def test_a_run_is_resumed_with_the_same_contents_only(trained: Path, data: Path) -> None:
    (trained / "summary.json").unlink()
    write_course_files(data, course_arrays(), compression="gzip")
    done("train", "--resume", "--out", trained)
    (trained / "summary.json").unlink()
    arrays = course_arrays()
    arrays["train_features"][3] += 1
    write_course_files(data, arrays)
    refused(run("train", "--resume", "--out", trained), "got data that have changed since")


def test_features_draw_no_sheets(trained: Path, tmp_path: Path) -> None:
    refused(
        run("eval", "--run", trained, "--split", "val", "--sheet", tmp_path / "s.png"),
        "expected a data set with pictures to draw",
    )
    refused(
        run("eval", "--run", trained, "--split", "val", "--ranked-sheet", tmp_path / "s.png"),
        "expected a data set with pictures",
    )


def test_no_picture_can_be_captioned_without_the_network_of_the_features(trained: Path, tmp_path: Path) -> None:
    (tmp_path / "picture.png").write_bytes(b"")
    refused(
        run("caption", "--run", trained, tmp_path / "picture.png"), "expected a run with the encoder of its features"
    )


def test_the_set_has_no_test_split_and_says_what_it_has(trained: Path) -> None:
    refused(run("caption", "--run", trained), "Splits with captions: train, val")
    refused(run("eval", "--run", trained), "Splits with captions: train, val")


def test_preparing_it_says_that_it_can_be_trained_on(data: Path, tmp_path: Path) -> None:
    refused(
        run("prepare", data, "-o", tmp_path / "out"),
        f"does not need preparation. Train on it with: capgpu train --data {data}",
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("command", ["train", "caption", "eval"])
def test_a_file_that_has_gone_is_named(command: str, trained: Path, data: Path) -> None:
    (data / "val2014_urls.txt").unlink()
    args = ["--data", data, "--out", data.with_name("new")] if command == "train" else ["--run", trained]
    refused(run(command, *args), "got none named val2014_urls.txt")
    assert not data.with_name("new").exists()


def test_a_folder_prepared_beside_the_files_is_the_prepared_one(data: Path) -> None:
    prepared_folder(data)
    assert open_dataset(data).features("train").shape == (23, 6)
    (data / "prepared.json").unlink()
    assert open_dataset(data).features("train").shape == (7, 6)
