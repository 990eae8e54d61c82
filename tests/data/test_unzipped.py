"""Data sets as their archives unpack are recognized, with their official splits and pictures."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from capgpu.data.detect_format import read_source, read_sources
from capgpu.data.feature_files import FeatureFile
from capgpu.data.source import UNSPLIT, Source
from capgpu.data.split_features import attach_features
from capgpu.data.text_files import DataFileError
from oracles.commands import refused, run
from oracles.folders import coco_annotations, write_json
from oracles.sources import karpathy_annotations


def touched(folder: Path, names: Iterable[str]) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def written(path: Path, text: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def splits_of(source: Source) -> dict[str, list[Any]]:
    """Return the ids of each split; every picture must be found."""
    for pictures in source.splits.values():
        assert pictures.files is not None
        assert all(file.is_file() for file in pictures.files), pictures.files
    return {split: pictures.image_ids for split, pictures in source.splits.items()}


def coco(folder: Path, year: str, pictures: str = "{}") -> None:
    for split, ids in (("train", range(6)), ("val", range(6, 9))):
        (folder / "annotations").mkdir(parents=True, exist_ok=True)
        name = f"captions_{split}{year}.json"
        write_json(folder / "annotations" / name, coco_annotations({i: [f"a dog {i}"] for i in ids}, "{}.jpg"))
        written(folder / "annotations" / f"instances_{split}{year}.json", "{}")
        touched(folder / pictures.format(f"{split}{year}"), (f"{i}.jpg" for i in ids))
    written(folder / "annotations" / f"._captions_train{year}.json", "\0")


@pytest.mark.parametrize("year", ["2014", "2017"])
@pytest.mark.parametrize("pictures", ["{}", "images/{}", "images"])
def test_coco(year: str, pictures: str, tmp_path: Path) -> None:
    coco(tmp_path / "coco", year, pictures)
    for folder in (tmp_path / "coco", tmp_path):
        source = read_source(folder)
        assert splits_of(source) == {"train": [*range(6)], "val": [6, 7, 8]}
        assert f"recognized COCO {year} (annotations/captions_train{year}.json" in source.notes[0]
        assert "official splits, one of each file: train 6, val 3" in source.notes[1]
        assert len(source.more) == 1
    files = [tmp_path / "coco" / "annotations" / f"captions_{split}{year}.json" for split in ("train", "val")]
    assert splits_of(read_sources(files)) == {"train": [*range(6)], "val": [6, 7, 8]}
    assert splits_of(read_sources(files[:1])) == {UNSPLIT: [*range(6)]}


def test_coco_in_one_folder_with_pictures_in_folders_without_a_year(tmp_path: Path) -> None:
    for split, ids in (("train", range(6)), ("val", range(6, 9))):
        write_json(tmp_path / f"captions_{split}2017.json", coco_annotations({i: ["a dog"] for i in ids}, "{}.jpg"))
        touched(tmp_path / split, (f"{i}.jpg" for i in ids))
    assert splits_of(read_source(tmp_path)) == {"train": [*range(6)], "val": [6, 7, 8]}


def test_coco_of_two_years_or_with_a_picture_in_two_files_is_refused(tmp_path: Path) -> None:
    coco(tmp_path, "2014")
    coco(tmp_path, "2017")
    with pytest.raises(DataFileError, match=r"one data set, got COCO 2014 .*, COCO 2017 .*Name the file"):
        read_source(tmp_path)
    annotations = tmp_path / "annotations"
    with pytest.raises(DataFileError, match=r"images that are in no other file, got 0"):
        read_sources(
            [
                annotations / "captions_train2014.json",
                write_json(annotations / "my_val.json", coco_annotations({0: ["a dog"]}, "{}.jpg")),
            ]
        )


def flickr8k_text(folder: Path) -> None:
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg", "e.jpg.1"]
    rows = "".join(f"{name}#{k}\ta dog runs {k}\n" for name in names for k in range(5))
    written(folder / "Flickr8k.token.txt", rows)
    written(folder / "Flickr8k.lemma.token.txt", rows.replace("runs", "run"))
    for split, listed in (("train", "a.jpg\nb.jpg\n"), ("dev", "c.jpg\n"), ("test", "d.jpg\n")):
        written(folder / f"Flickr_8k.{split}Images.txt", listed)
    written(folder / "ExpertAnnotations.txt", "a.jpg\tb.jpg#2\t1\t1\t1\n")
    written(folder / "readme.txt", "x\n")


@pytest.mark.parametrize("text", [".", "Flickr8k_text"])
def test_flickr8k(text: str, tmp_path: Path) -> None:
    flickr8k_text(tmp_path / text)
    touched(tmp_path / "Flicker8k_Dataset", ["a.jpg", "b.jpg", "c.jpg", "d.jpg"])
    touched(tmp_path / "__MACOSX" / "Flicker8k_Dataset", ["a.jpg", "._a.jpg"])
    for path in (tmp_path, tmp_path / text / "Flickr8k.token.txt"):
        source = read_source(path)
        assert splits_of(source) == {"train": ["a.jpg", "b.jpg"], "val": ["c.jpg"], "test": ["d.jpg"]}
        assert source.splits["val"].captions == [[f"a dog runs {k}" for k in range(5)]]
        notes = "\n".join(source.notes)
        assert "splits of the lists beside it: val 1 (Flickr_8k.devImages.txt), test 1" in notes
        assert "pictures in none of the lists, omitted: 1, the first e.jpg.1" in notes


def test_flickr8k_as_kaggle_has_it(tmp_path: Path) -> None:
    outer = tmp_path / "Flickr_Data" / "Flickr_Data"
    written(outer / "Flickr_TextData" / "Flickr8k.token.txt", "a.jpg#0\ta dog\nb.jpg#0\ta cat\n")
    written(outer / "Flickr_TextData" / "Flickr_8k.trainImages.txt", "a.jpg\n")
    written(outer / "Flickr_TextData" / "Flickr_8k.devImages.txt", "b.jpg\n")
    touched(outer / "Images", ("a.jpg", "b.jpg"))
    for folder in (tmp_path, tmp_path / "Flickr_Data", outer, outer / "Flickr_TextData"):
        assert splits_of(read_source(folder)) == {"train": ["a.jpg"], "val": ["b.jpg"]}


def test_equal_ids_of_different_pictures_in_two_files_are_accepted(tmp_path: Path) -> None:
    files = [tmp_path / f"captions_{split}.json" for split in ("train", "val")]
    for file in files:
        write_json(file, coco_annotations({i: ["a dog"] for i in range(3)}, "{}.jpg"))
    remedy = r"got 0, as in captions_train.json. Remove the image from one of the two.*--images"
    with pytest.raises(DataFileError, match=remedy):
        read_sources(files)
    for split in ("train", "val"):
        for i in range(3):
            written(tmp_path / split / f"{i}.jpg", f"{split} {i}")
    source = read_sources(files)
    assert splits_of(source) == {"train": [0, 1, 2], "val": [0, 1, 2]}
    assert "ids that two pictures have, one in each file: 3" in source.notes
    with pytest.raises(DataFileError, match=r"f.npz: expected features of distinct images, got 0 in several splits"):
        attach_features(
            dict(source.splits), source, FeatureFile(tmp_path / "f.npz", np.ones((3, 2), np.float32), [0, 1, 2])
        )
    written(tmp_path / "val" / "2.jpg", "train 2")  # the same picture
    with pytest.raises(DataFileError, match=r"got 2, as in captions_train.json"):
        read_sources(files)


@pytest.mark.parametrize(
    "names",
    [
        ("train.csv", "val.csv", "test.csv"),
        ("flickr_train_captions.csv", "flickr_validation_captions.csv", "flickr_test_captions.csv"),
        ("captions.train.txt", "captions.dev.txt", "captions.test.txt"),
        ("train2017.csv", "val2017.csv", "test2017.csv"),
    ],
)
@pytest.mark.parametrize("home", ["", "images/", "{}/", "images/{}_images/"])
def test_a_file_of_captions_for_each_split(names: tuple[str, ...], home: str, tmp_path: Path) -> None:
    for split, name in zip(("train", "val", "test"), names, strict=True):
        pictures = ["0.jpg", "1.jpg"] if "{}" in home else [f"{split}0.jpg", f"{split}1.jpg"]
        written(tmp_path / name, "image,caption\n" + "".join(f"{picture},a dog\n" for picture in pictures))
        for picture in pictures:
            written(tmp_path / home.format(split) / picture, f"{split} {picture}")
    written(tmp_path / "labels.csv", "name,label\n0,dog\n")
    source = read_source(tmp_path)
    assert {name: len(ids) for name, ids in splits_of(source).items()} == {"train": 2, "val": 2, "test": 2}
    assert source.notes[0] == f"recognized files of splits ({', '.join(sorted(names))})"
    for split, pictures in source.splits.items():
        assert {file.read_text().split()[0] for file in pictures.files or ()} == {split}
    assert read_sources([tmp_path / name for name in names]).splits.keys() == source.splits.keys()
    (tmp_path / names[1]).write_text((tmp_path / names[0]).read_text())
    if "{}" not in home:
        with pytest.raises(DataFileError, match=r"expected pictures that are in no other split, got .*Remove it"):
            read_source(tmp_path)


def test_files_of_captions_that_are_no_splits_are_not_joined(tmp_path: Path) -> None:
    for name in ("train.csv", "val_extra.csv"):
        written(tmp_path / name, "image,caption\na.jpg,a dog\n")
    with pytest.raises(DataFileError, match=r"expected one file of captions .* got train.csv, val_extra.csv"):
        read_source(tmp_path)
    with pytest.raises(DataFileError, match=r"labels.csv: expected a name with its split, such as train.csv"):
        read_sources([tmp_path / "train.csv", tmp_path / "labels.csv"])
    with pytest.raises(ValueError, match="several files of one kind, each a split"):
        read_sources([tmp_path / "train.csv", tmp_path / "val.json"])


@pytest.mark.parametrize(
    ("lists", "says"),
    [
        ({"train.txt": "a\nb\n", "val.txt": "c\nb\n"}, r"val.txt, line 2: expected each picture in one list, got b"),
        (
            {"train.txt": "a\n", "val.txt": "c\n", "dev.txt": "b\n"},
            r"one list of the split val, got dev.txt and val.txt",
        ),
    ],
)
def test_lists_that_contradict_each_other_are_refused(lists: dict[str, str], says: str, tmp_path: Path) -> None:
    written(tmp_path / "captions.csv", "image,caption\na.jpg,x\nb.jpg,x\nc.jpg,x\n")
    for name, text in lists.items():
        written(tmp_path / name, text)
    with pytest.raises(DataFileError, match=says):
        read_source(tmp_path)


def test_lists_of_other_pictures_are_not_used(tmp_path: Path) -> None:
    written(tmp_path / "captions.csv", "image,caption\na.jpg,x\n")
    written(tmp_path / "train.txt", "epoch 1, loss 2.3\n")
    assert list(read_source(tmp_path).splits) == [UNSPLIT]


def test_flickr30k(tmp_path: Path) -> None:
    token = "".join(f"{i}.jpg#{k}\tA dog {k}\n" for i in range(3) for k in range(5))
    rows = [f"{i}.jpg| {k}| A dog {k}\n" for i in range(3) for k in range(5)]
    rows[9] = rows[9].replace("| A", "   A")  # as in the file of the archive
    one, two = tmp_path / "one", tmp_path / "two" / "flickr30k_images"
    written(one / "results_20130124.token", token)
    touched(one / "flickr30k-images", (f"{i}.jpg" for i in range(3)))
    written(two / "results.csv", "image_name| comment_number| comment\n" + "".join(rows))
    touched(two / "flickr30k_images", (f"{i}.jpg" for i in range(3)))
    for folder in (one, two, two.parent):
        source = read_source(folder)
        assert splits_of(source) == {UNSPLIT: ["0.jpg", "1.jpg", "2.jpg"]}
        assert source.splits[UNSPLIT].captions == [[f"A dog {k}" for k in range(5)]] * 3


def karpathy(ids: Iterable[int]) -> dict[str, Any]:
    return karpathy_annotations({i: ("train", "val", "test")[i % 3] for i in ids})


def test_the_file_of_karpathys_zip_whose_pictures_are_there_is_used(tmp_path: Path) -> None:
    contents = {"dataset_coco.json": karpathy(range(3)), "dataset_flickr8k.json": karpathy(range(6))}
    for name, content in contents.items():
        for image in content["images"]:
            image["filename"] = f"{name[8]}{image['filename']}"
            if name == "dataset_coco.json":
                image["filepath"] = "val2014"
            else:
                image.pop("filepath", None)
        write_json(tmp_path / name, content)
    with pytest.raises(DataFileError, match=r"one data set, got .*dataset_coco.json.*dataset_flickr8k.json"):
        read_source(tmp_path)
    touched(
        tmp_path / "Flicker8k_Dataset", (image["filename"] for image in contents["dataset_flickr8k.json"]["images"])
    )
    source = read_source(tmp_path)
    assert source.notes[0] == "recognized Karpathy's splits (dataset_flickr8k.json)"
    assert {split: len(ids) for split, ids in splits_of(source).items()} == {"train": 2, "val": 2, "test": 2}


def test_metadata_in_folders_of_splits(tmp_path: Path) -> None:
    for split, names in (("train", ["1.jpg", "2.jpg"]), ("validation", ["1.jpg"]), ("test", ["3.jpg"])):
        part = tmp_path / "data" / split
        touched(part, names)
        written(part / "metadata.jsonl", "".join(json.dumps({"file_name": n, "text": "a dog"}) + "\n" for n in names))
    for folder in (tmp_path / "data", tmp_path):
        source = read_source(folder)
        assert splits_of(source) == {
            "train": ["train/1.jpg", "train/2.jpg"],
            "val": ["validation/1.jpg"],
            "test": ["test/3.jpg"],
        }
        assert "recognized folders of splits (" in source.notes[0]


def test_what_was_recognized_is_printed_and_addresses_are_refused(tmp_path: Path) -> None:
    coco(tmp_path / "coco", "2017")
    result = run("prepare", tmp_path / "coco", "-o", tmp_path / "out", "--network", tmp_path / "none.onnx")
    assert "9 pictures, kind coco" in result.stdout
    assert "recognized COCO 2017" in result.stdout
    refused(
        run("prepare", "http://images.cocodataset.org/annotations/annotations.zip", "-o", tmp_path / "out"),
        "expected a file or folder on this machine, got the address",
    )
