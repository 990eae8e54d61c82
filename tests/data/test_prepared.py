"""A prepared folder: what goes in comes out, mapped; what is not whole is refused."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest

import capgpu.data.prepared
from capgpu.checkpoint import CheckpointError
from capgpu.data.arrays import validate_data
from capgpu.data.prepared import is_prepared, load_prepared, read_manifest, save_prepared
from oracles.folders import prepared_folder


def test_what_was_saved_comes_back_mapped_from_its_files(tmp_path: Path) -> None:
    saved = prepared_folder(tmp_path)
    data = load_prepared(tmp_path)
    validate_data(data, ("train", "val"))
    assert set(data) == set(saved)
    for key, value in saved.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(data[key], value)
        else:
            assert data[key] == value
    for split in ("train", "val"):
        assert type(data[f"{split}_features"]) is np.memmap
        assert not data[f"{split}_features"].flags.writeable
        assert type(data[f"{split}_captions"]) is np.ndarray
        assert isinstance(data[f"{split}_captions"].base, np.memmap)


def test_large_features_are_written_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capgpu.data.prepared, "_ROWS_AT_ONCE", 4)
    saved = prepared_folder(tmp_path, train=23, val=8)
    np.testing.assert_array_equal(load_prepared(tmp_path)["train_features"], saved["train_features"])


def test_equal_data_have_equal_identities(tmp_path: Path) -> None:
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        prepared_folder(tmp_path / name, seed=seed)
    a, b, c = (read_manifest(tmp_path / name).identity for name in "abc")
    assert a == b != c


@pytest.mark.parametrize("name", ["train_features.npy", "val_captions.npy", "vocabulary.json", "train.json"])
@pytest.mark.parametrize("harm", ["missing", "cut"])
def test_a_file_that_is_missing_or_changed_is_named(name: str, harm: str, tmp_path: Path) -> None:
    prepared_folder(tmp_path)
    if harm == "missing":
        (tmp_path / name).unlink()
    else:
        os.truncate(tmp_path / name, 70)
    with pytest.raises(CheckpointError, match=f"{name} .*has changed") as error:
        load_prepared(tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", ["train_features.npy", "vocabulary.json", "train.json"])
def test_contents_of_the_right_size_that_cannot_be_read_are_refused(name: str, tmp_path: Path) -> None:
    prepared_folder(tmp_path)
    (tmp_path / name).write_bytes(b"\xff" * (tmp_path / name).stat().st_size)
    with pytest.raises(CheckpointError, match="damaged"):
        load_prepared(tmp_path)


@pytest.mark.parametrize("name", ["train_captions.npy", "val_image_idxs.npy", "vocabulary.json", "val.json"])
def test_contents_that_are_not_those_written_are_refused(name: str, tmp_path: Path) -> None:
    prepared_folder(tmp_path)
    content = bytearray((tmp_path / name).read_bytes())
    content[-3] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"{name} is damaged: it does not match its checksum"):
        load_prepared(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"format": "another"}', '{"format": "capgpu-prepared-1"}'])
def test_a_damaged_manifest_is_named(text: str, tmp_path: Path) -> None:
    prepared_folder(tmp_path)
    (tmp_path / "prepared.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"prepared.json is damaged"):
        load_prepared(tmp_path)


def test_a_folder_without_a_manifest_is_no_prepared_one(tmp_path: Path) -> None:
    assert not is_prepared(tmp_path)
    with pytest.raises(CheckpointError, match="capgpu prepare"):
        load_prepared(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        load_prepared(tmp_path / "nowhere")


def test_writing_that_fails_leaves_no_prepared_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = prepared_folder(tmp_path)
    monkeypatch.setattr(json, "dump", lambda *_, **__: (_ for _ in ()).throw(OSError("no space left on device")))
    with pytest.raises(OSError, match="no space"):
        save_prepared(tmp_path, data)
    assert not is_prepared(tmp_path)


def test_bad_data_are_refused_before_anything_is_written(tmp_path: Path) -> None:
    data = prepared_folder(tmp_path)
    with pytest.raises(ValueError, match="NaN"):
        save_prepared(tmp_path / "new", data | {"val_features": data["val_features"] * np.nan})
    assert not (tmp_path / "new").exists()
