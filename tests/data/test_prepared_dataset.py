"""A prepared folder: what goes in comes out, mapped; what is not whole is refused."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest

import capgpu.data.arrays
import capgpu.data.prepared_dataset
from capgpu.checkpoint import CheckpointError
from capgpu.data.arrays import validate_data
from capgpu.data.prepared_dataset import is_prepared, load_prepared, read_manifest, save_prepared, verify_prepared
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
    monkeypatch.setattr(capgpu.data.arrays, "_BYTES_AT_ONCE", 64)
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
    with pytest.raises(CheckpointError, match=f"{name}: .*has changed") as error:
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


def changed(file: Path, *, unnoticed: bool = False) -> None:
    """Change a bit of a file's last number; `unnoticed` with the time of the last change as it was."""
    content, stat = bytearray(file.read_bytes()), file.stat()
    content[-3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(stat.st_atime_ns, stat.st_mtime_ns + (0 if unnoticed else 1)))


@pytest.fixture
def summed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files of features whose checksum was computed."""
    names: list[str] = []
    compute = capgpu.data.prepared_dataset._crc32

    def recording(path: Path) -> str:
        if path.name.endswith("_features.npy"):
            names.append(path.name)
        return compute(path)

    monkeypatch.setattr(capgpu.data.prepared_dataset, "_crc32", recording)
    return names


def test_features_that_have_changed_since_they_were_checked_are_refused(tmp_path: Path) -> None:
    prepared_folder(tmp_path)
    load_prepared(tmp_path)
    changed(tmp_path / "val_features.npy")
    for _ in range(2):
        with pytest.raises(CheckpointError, match=r"val_features.npy is damaged: it does not match its checksum"):
            load_prepared(tmp_path)


def test_features_are_read_again_only_where_their_file_has_changed(tmp_path: Path, summed: list[str]) -> None:
    prepared_folder(tmp_path)
    summed.clear()
    load_prepared(tmp_path)
    assert summed == []
    os.utime(tmp_path / "val_features.npy", ns=(0, 12345))
    load_prepared(tmp_path)
    assert summed == ["val_features.npy"]
    shutil.copytree(tmp_path, tmp_path / "copy", copy_function=shutil.copyfile)
    for _ in range(2):
        load_prepared(tmp_path)
        load_prepared(tmp_path / "copy")
    assert sorted(summed[1:]) == ["train_features.npy", "val_features.npy"]


@pytest.mark.parametrize("text", ["", "[]", '{"train_features.npy": 3}', None])
def test_without_a_note_that_can_be_read_features_are_checked(
    text: str | None, tmp_path: Path, summed: list[str]
) -> None:
    prepared_folder(tmp_path)
    note = tmp_path / "checked.json"
    note.unlink() if text is None else note.write_text(text)
    summed.clear()
    load_prepared(tmp_path)
    load_prepared(tmp_path)
    assert sorted(summed) == ["train_features.npy", "val_features.npy"]


def test_a_folder_that_cannot_be_written_is_checked_every_time(
    tmp_path: Path, summed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    prepared_folder(tmp_path)
    os.utime(tmp_path / "val_features.npy", ns=(0, 12345))
    monkeypatch.setattr(json, "dump", lambda *_, **__: (_ for _ in ()).throw(OSError("read-only")))
    summed.clear()
    load_prepared(tmp_path)
    load_prepared(tmp_path)
    assert summed == ["val_features.npy"] * 2


def test_features_of_a_folder_are_not_read_to_see_whether_they_are_finite(tmp_path: Path) -> None:
    prepared_folder(tmp_path)
    stat = (tmp_path / "val_features.npy").stat()
    with open(tmp_path / "val_features.npy", "r+b") as file:
        file.seek(-4, 2)
        file.write(np.float32(np.nan).tobytes())
    os.utime(tmp_path / "val_features.npy", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    data = load_prepared(tmp_path)
    validate_data(data, ("train", "val"))
    # what is known of the file's array holds for no other
    for other in (data["val_features"][1:], np.array(data["val_features"])):
        with pytest.raises(ValueError, match="NaN"):
            validate_data(data | {"val_features": other, "val_image_idxs": data["val_image_idxs"] * 0}, ("val",))


def test_a_change_that_leaves_no_trace_is_found_by_comparing_all(tmp_path: Path) -> None:
    prepared_folder(tmp_path)
    assert sorted(verify_prepared(tmp_path)) == sorted(
        file.name for file in tmp_path.iterdir() if file.name not in ("prepared.json", "checked.json")
    )
    changed(tmp_path / "val_features.npy", unnoticed=True)
    (tmp_path / "train.json").unlink()
    with pytest.raises(CheckpointError) as load:
        verify_prepared(tmp_path)
    assert "val_features.npy is damaged" in str(load.value)
    assert "train.json: expected " in str(load.value)


def test_a_change_that_has_been_found_does_not_pass_for_unchanged_afterwards(tmp_path: Path) -> None:
    prepared_folder(tmp_path)
    changed(tmp_path / "val_features.npy", unnoticed=True)
    load_prepared(tmp_path)
    with pytest.raises(CheckpointError, match="checksum"):
        verify_prepared(tmp_path)
    with pytest.raises(CheckpointError, match="checksum"):
        load_prepared(tmp_path)


def test_a_file_is_no_prepared_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"expected a prepared folder, .* got a file"):
        verify_prepared(tmp_path / "file")


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
    with pytest.raises(CheckpointError, match="got no such folder"):
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
