"""A preparation refuses settings, sources and folders that cannot work, before anything is written."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from capgpu.data.detect_format import read_source
from capgpu.data.feature_files import open_features
from capgpu.data.prepare import PrepareConfig, prepare
from capgpu.data.prepared_dataset import read_manifest
from capgpu.data.source import Source
from capgpu.data.text_files import DataFileError
from capgpu.folder_lock import folder_lock
from oracles.encoders import CountingEncoder, picture_files
from oracles.preparations import ANYTHING, COUNT, contents, make, write_source

pytestmark = pytest.mark.usefixtures("small_pieces")


def test_feature_rows_without_ids_are_refused_for_pictures_from_a_list(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source")
    (path.parent / "train.txt").write_text("9.png\n8.png\n")
    np.save(tmp_path / "f.npy", np.array([[9.0], [8.0]]))  # in the order of the list, not of the captions
    with pytest.raises(DataFileError, match=r"expected image_ids, since .* has splits"):
        prepare(read_source(path), tmp_path / "out", ANYTHING, open_features(tmp_path / "f.npy"))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (PrepareConfig(tokens="french"), "tokens: expected one of plain, coco.*got .*'french'"),
        (PrepareConfig(min_count=0), "min_count: expected at least 1.*got .*0"),
        (PrepareConfig(max_words=4), "max_words: expected at least 5 with the 4 special tokens, got 4"),
        (PrepareConfig(max_length=0), "max_length: expected at least 1, got 0"),
        (PrepareConfig(seed=-1), "seed: expected at least 0, got -1"),
        (PrepareConfig(val=0.5, test=0.5), "expected fractions that leave training pictures"),
        (
            PrepareConfig(min_count=500),
            "min_count: expected a count that a word reaches in the 32 training captions, got 500",
        ),
        (
            PrepareConfig(min_count=1, pca=5),
            "pca: expected at most 4 components of 4 features of 16 training pictures, got 5",
        ),
    ],
)
def test_invalid_settings_are_refused_before_anything_is_computed(
    config: PrepareConfig, message: str, csv_source: Source, tmp_path: Path
) -> None:
    encoder = CountingEncoder()
    with pytest.raises(ValueError, match=message):
        make(csv_source, tmp_path / "out", config, encoder)
    assert encoder.seen == []
    assert not (tmp_path / "out").exists()


def test_a_source_without_usable_training_data_is_refused(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source", lambda i: "val" if i else "train")
    with pytest.raises(DataFileError, match=r"expected pictures or features, got captions only.*--images.*--features"):
        prepare(read_source(path), tmp_path / "out", ANYTHING)
    path.write_text("image,caption\n0.png,...\n1.png,a dog\n")
    with pytest.raises(DataFileError, match=r"val: expected a caption with words, got none; the first is '...'"):
        make(read_source(path), tmp_path / "out", PrepareConfig(min_count=1, val=0.5, test=0))
    path.write_text("image,caption\n0.png,a dog\n")
    with pytest.raises(ValueError, match="1 and 1 of 1 pictures"):
        make(read_source(path), tmp_path / "out")
    make(read_source(path), tmp_path / "out", PrepareConfig(min_count=1, val=0, test=0))
    assert read_manifest(tmp_path / "out").splits == ["train"]


def test_a_source_without_readable_pictures_is_refused_and_leaves_no_files(csv_source: Source, tmp_path: Path) -> None:
    picture_files(tmp_path / "elsewhere", COUNT, range(COUNT))
    elsewhere = read_source(csv_source.path, folder=tmp_path / "elsewhere")
    with pytest.raises(
        DataFileError, match=r"captions.csv: expected at least one readable training picture, got none. The first: .*: "
    ):
        make(elsewhere, tmp_path / "out", settings={"images": "elsewhere"})
    make(csv_source, tmp_path / "out", settings={"images": "here"})


@pytest.mark.parametrize("files_exist", [True, False])
def test_mostly_missing_or_unreadable_pictures_are_refused_unless_accepted(files_exist: bool, tmp_path: Path) -> None:
    path = write_source(tmp_path / "source")
    for i in range(3, COUNT):
        picture = tmp_path / "source" / f"{i}.png"
        picture.write_text("no picture") if files_exist else picture.unlink()
    state = "readable" if files_exist else "existing"
    message = rf"{state} pictures, got none for 17 of 20, the first .*3\.png.*--max-unreadable"
    encoder = CountingEncoder()
    with pytest.raises(DataFileError, match=message):
        make(read_source(path), tmp_path / "out", encoder=encoder)
    assert len(encoder.seen) == (COUNT if files_exist else 0)  # missing ones are counted before the work
    result = make(read_source(path), tmp_path / "out", encoder=CountingEncoder(), max_unreadable=1.0)
    assert len(result.broken) == 17


def test_a_split_without_existing_pictures_is_refused_unless_accepted(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source", lambda i: "val" if i < 4 else "train")
    for i in range(4):
        (tmp_path / "source" / f"{i}.png").unlink()
    with pytest.raises(DataFileError, match=r"got none for 4 of 4 of the split val"):
        make(read_source(path), tmp_path / "out")
    assert len(make(read_source(path), tmp_path / "out", max_unreadable=1.0).broken) == 5


def test_addresses_of_pictures_are_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "captions.csv").write_text("image,caption\nhttps://example.org/a.jpg,a dog\n")
    with pytest.raises(DataFileError, match=r"got an address, the first of example\.org/a\.jpg\. Download"):
        make(read_source(tmp_path), tmp_path / "out")


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_with_foreign_files_is_refused_and_not_changed(
    force: bool, csv_source: Source, tmp_path: Path
) -> None:
    (tmp_path / "out" / "preparing").mkdir(parents=True)
    (tmp_path / "out" / "preparing" / "thesis.txt").touch()
    (tmp_path / "out" / "notes.txt").touch()
    (tmp_path / "file").touch()
    for folder, message in (
        (tmp_path / "out", r"expected a new, an empty or a prepared folder, got one with notes.txt"),
        (tmp_path / "file", "expected a folder, got a file"),
        (csv_source.path.parent, "expected a new, an empty or a prepared folder"),
    ):
        contents_before = contents(tmp_path)
        with pytest.raises(ValueError, match=message):
            make(csv_source, folder, force=force)
        assert contents(tmp_path) == contents_before


def test_a_finished_folder_is_replaced_only_with_force(csv_source: Source, tmp_path: Path) -> None:
    make(csv_source, tmp_path / "out", PrepareConfig(min_count=1, test=0.3))
    (tmp_path / "out" / "notes.txt").touch()
    contents_before = contents(tmp_path / "out")
    for config in (PrepareConfig(min_count=1, test=0.3), ANYTHING, PrepareConfig(min_count=500)):
        with pytest.raises(ValueError, match=r"expected a folder without a finished data set.*--force"):
            make(csv_source, tmp_path / "out", config)
    with pytest.raises(ValueError, match="expected a count that a word reaches"):
        make(csv_source, tmp_path / "out", PrepareConfig(min_count=500), force=True)
    assert contents(tmp_path / "out") == contents_before
    make(csv_source, tmp_path / "out", PrepareConfig(min_count=1, test=0), force=True)
    make(csv_source, tmp_path / "new", PrepareConfig(min_count=1, test=0))
    assert contents(tmp_path / "out") == {**contents(tmp_path / "new"), "notes.txt": b""}  # and no test_features.npy


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_locked_by_another_process_is_refused(force: bool, csv_source: Source, tmp_path: Path) -> None:
    out = tmp_path / "out"
    with folder_lock(out), pytest.raises(ValueError, match="expected a folder that no other process"):
        make(csv_source, out, force=force)
    assert not out.exists()
    make(csv_source, out)
    contents_before = contents(out)
    with folder_lock(out), pytest.raises(ValueError, match="expected a folder that no other process"):
        make(csv_source, out, force=True)
    assert contents(out) == contents_before


def test_a_split_without_captions_is_refused(tmp_path: Path) -> None:
    path = write_source(tmp_path / "source", lambda i: "test" if i == 0 else "train")
    path.write_text("image,caption,split\n0.png,,test\n1.png,a dog,train\n2.png,a cat,train\n")
    with pytest.raises(DataFileError, match="expected captions of the split test, got none for 1 pictures"):
        make(read_source(path), tmp_path / "out")
