"""Feature files: every kind gives the same rows, mapped; what is damaged or does not fit is refused by name."""

from __future__ import annotations

import tempfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import capgpu.data.feature_files
import capgpu.file_formats.npy
from capgpu.data.feature_files import FeatureFile, open_features
from capgpu.data.text_files import DataFileError
from capgpu.file_formats.hdf5 import open_hdf5

Array = np.ndarray[Any, Any]
ROWS = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)


def _write_h5(path: Path, rows: Array, ids: Any = None, file: dict[str, Any] | None = None, **layout: Any) -> None:
    with h5py.File(path, "w", **(file or {})) as out:
        out.create_dataset("features", data=rows, **layout)
        if ids is not None:
            out["image_ids"] = ids


def _write_npz(path: Path, rows: Array, ids: Any = None, save: Callable[..., None] = np.savez) -> None:
    save(path, features=rows, **({} if ids is None else {"image_ids": np.array(ids)}))


WRITERS: dict[str, tuple[str, Callable[..., None]]] = {
    "npy": ("f.npy", lambda path, rows, ids=None: np.save(path, rows)),
    "npz": ("f.npz", _write_npz),
    "npz compressed": ("f.npz", lambda *what: _write_npz(*what, save=np.savez_compressed)),
    "h5": ("f.h5", _write_h5),
    "h5 in chunks": ("f.hdf5", lambda *what: _write_h5(*what, chunks=True, compression="gzip", shuffle=True)),
    "h5 compact": ("F.H5", lambda path, rows, ids=None: _write_h5_compact(path, rows, ids)),
    "h5 with a user block": ("f.h5", lambda *what: _write_h5(*what, file={"userblock_size": 512})),
}
WITH_IDS = [kind for kind in WRITERS if kind != "npy"]


def _write_h5_compact(path: Path, rows: Array, ids: Any) -> None:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_layout(h5py.h5d.COMPACT)
    with h5py.File(path, "w") as out:
        kind = h5py.h5t.py_create(rows.dtype, logical=True)
        data = h5py.h5d.create(out.id, b"features", kind, h5py.h5s.create_simple(rows.shape), plist)
        data.write(h5py.h5s.ALL, h5py.h5s.ALL, np.ascontiguousarray(rows))
        if ids is not None:
            out["image_ids"] = ids


def written(folder: Path, kind: str, rows: Array, ids: Any = None) -> Path:
    name, write = WRITERS[kind]
    write(folder / name, rows, ids)
    return folder / name


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("dtype", ["<f4", ">f4", "<f2", "<f8", ">f8"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_rows_come_back_mapped(kind: str, dtype: str, order: Any, tmp_path: Path) -> None:
    rows = np.asarray(ROWS, dtype=dtype, order=order)
    file = open_features(written(tmp_path, kind, rows))
    np.testing.assert_array_equal(file.rows, rows)
    assert file.rows.dtype.newbyteorder("=") == rows.dtype.newbyteorder("=")
    assert isinstance(file.rows, np.memmap)
    assert not file.rows.flags.writeable
    assert file.image_ids is None


@pytest.mark.parametrize("kind", WITH_IDS)
@pytest.mark.parametrize(
    ("ids", "read"), [([5, 3, 10**15], None), (["a.jpg", "ü", "7"], None), ([b"a", b"b", b"c"], ["a", "b", "c"])]
)
def test_ids_are_numbers_or_texts(kind: str, ids: list[Any], read: list[Any] | None, tmp_path: Path) -> None:
    file = open_features(written(tmp_path, kind, ROWS[:3], ids))
    assert file.image_ids == (read or ids)
    assert all(type(image) in (int, str) for image in file.image_ids or ())


def test_rows_are_found_by_id_whatever_its_type(tmp_path: Path) -> None:
    by_id = FeatureFile(tmp_path / "f.npz", ROWS, [5, 3, 8, 0, 1, 2, 4])
    assert by_id.rows_of([8, "5"]).tolist() == [2, 0]
    assert by_id.rows_of([]).dtype == np.int64
    with pytest.raises(
        DataFileError, match=r"f.npz: expected features of 3 images, got none of 2, the first with the id 9"
    ):
        by_id.rows_of([5, 9, "05"])
    with pytest.raises(DataFileError, match="differ only in their type"):
        by_id.rows_of([5, "5"])


def test_rows_without_ids_are_in_the_order_of_the_captions(tmp_path: Path) -> None:
    by_place = FeatureFile(tmp_path / "f.npy", ROWS, None)
    assert by_place.rows_of(list("abcdefg")).tolist() == list(range(7))
    for count in (6, 8):  # fewer features than images, and more
        with pytest.raises(DataFileError, match=rf"f.npy: expected one row for each of {count} images .* got 7"):
            by_place.rows_of(list(range(count)))


@pytest.mark.parametrize("kind", [kind for kind in WRITERS if kind != "h5 compact"])  # such are below 64 KiB
def test_files_far_larger_than_what_is_held_in_memory_are_opened(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (capgpu.data.feature_files, capgpu.file_formats.npy):
        monkeypatch.setattr(module, "_BYTES_AT_ONCE", 1 << 19)
    path = written(tmp_path, kind, np.ones((4096, 1024), np.float32))  # 16 MiB
    open_features(path)  # with what is imported, once
    tracemalloc.start()
    rows = open_features(path).rows
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert float(rows[-1].sum()) == 1024
    assert peak < 4 << 20


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize(
    ("rows", "says"),
    [
        (np.ones(3, np.float32), r"features: expected floats \(I, D\) or \(I, L, D\), got shape \(3,\)"),
        (np.ones((3, 2, 2, 1), np.float32), r"or \(I, L, D\), got shape \(3, 2, 2, 1\)"),
        (np.array(1.0, np.float32), r"got shape \(\)"),
        (np.ones((3, 2), np.int64), "expected floats .* dtype int64"),
        (np.ones((0, 2), np.float32), r"got shape \(0, 2\)"),
        (
            np.array([[1], [2], [np.nan]], np.float32),
            "features: expected values that are finite in float32, got others in row 2",
        ),
        (
            np.array([[1], [-np.inf]], np.float16),
            "features: expected values that are finite in float32, got others in row 1",
        ),
        (np.array([[1e300], [1]]), "features: expected values that are finite in float32, got others in row 0"),
    ],
)
def test_features_that_cannot_be_used_are_refused(kind: str, rows: Array, says: str, tmp_path: Path) -> None:
    if kind == "h5 in chunks" and rows.ndim == 0:
        kind = "h5"  # there are no chunks of a single number
    path = written(tmp_path, kind, rows)
    with pytest.raises(DataFileError, match=says) as error:
        open_features(path)
    assert str(path) in str(error.value)


@pytest.mark.parametrize("kind", ["npz", "h5"])
@pytest.mark.parametrize(
    ("ids", "says"),
    [
        ([1, 2, 3], r"image_ids: expected one image id for each of 7 rows of features, got 3"),
        ([1, 2, 3, 4, 5, 6, 2], "image_ids: expected distinct image ids, got 2 in rows 1 and 6"),
        ([[1]] * 7, r"image_ids: expected integer or text image ids \(I,\), got shape \(7, 1\)"),
        ([1.5] * 7, "image_ids: expected integer or text image ids .* dtype float64"),
        ("abc", r"image_ids: expected integer or text image ids \(I,\), got shape \(\)"),
    ],
)
def test_ids_that_do_not_fit_are_refused(kind: str, ids: Any, says: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind, ROWS, ids)
    with pytest.raises(DataFileError, match=says) as error:
        open_features(path)
    assert str(path) in str(error.value)


def _write(path: Path, **entries: Any) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **entries)
    else:
        with h5py.File(path, "w") as out:
            for name, value in entries.items():
                out[name] = value
    return path


@pytest.mark.parametrize("name", ["f.npz", "f.h5"])
@pytest.mark.parametrize("entry", ["image_id", "id", "img_ids", "names", "features_keys"])
def test_the_only_other_entry_of_as_many_rows_is_the_ids(name: str, entry: str, tmp_path: Path) -> None:
    others = {"mean": np.zeros(3), "version": 2}
    file = open_features(_write(tmp_path / name, features=ROWS, **others, **{entry: np.array([5, 3, 8, 0, 1, 2, 4])}))
    assert file.ids_entry == entry
    assert file.rows_of([8, 5]).tolist() == [2, 0]
    with pytest.raises(DataFileError, match=f"the id 9 in its entry {entry}"):
        file.rows_of([9])


@pytest.mark.parametrize("name", ["f.npz", "f.h5"])
@pytest.mark.parametrize(
    ("entries", "says"),
    [
        ({"names": np.arange(7), "labels": np.arange(7)}, "expected one entry of image ids, got .*names"),
        ({"scores": np.ones(7, np.float32)}, r"scores: expected .* dtype float32.* or remove this one"),
        ({"boxes": np.ones((7, 4), np.int64)}, r"boxes: expected .* got shape \(7, 4\)"),
        ({"labels": np.arange(7) // 2}, "labels: expected distinct image ids, got 0 in rows 0 and 1"),
    ],
)
def test_entries_that_may_or_may_not_be_the_ids_are_refused(
    name: str, entries: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(DataFileError, match=says):
        open_features(_write(tmp_path / name, features=ROWS, **entries))
    assert open_features(_write(tmp_path / name, features=ROWS, image_ids=np.arange(7), **entries)).image_ids


def test_ids_of_objects_or_in_a_group_are_not_overlooked(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", features=ROWS, keys=np.array(list("abcdefg"), object))
    with pytest.raises(DataFileError, match=r"keys: expected integers or texts, got"):
        open_features(tmp_path / "f.npz")
    file = open_features(_write(tmp_path / "f.h5", **{"features": ROWS, "meta/names": list("gfedcba")}))
    assert file.rows_of(list("ag")).tolist() == [6, 0]


def test_entries_of_other_lengths_leave_rows_in_their_order(tmp_path: Path) -> None:
    for name in ("f.npz", "f.h5"):
        file = open_features(_write(tmp_path / name, features=ROWS, mean=np.zeros(3), labels=np.arange(6)))
        assert (file.image_ids, file.ids_entry) == (None, None)


def test_ids_of_no_kind_that_is_read_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "o.npz", features=ROWS, image_ids=np.array([1, "a"] * 3 + [7], object))
    with h5py.File(tmp_path / "group.h5", "w") as out:
        out["features"] = ROWS
        out.create_group("ids")
    with h5py.File(tmp_path / "lists.h5", "w") as out:
        out["features"] = ROWS
        out.create_dataset("ids", (7,), h5py.vlen_dtype(np.int32))
    with h5py.File(tmp_path / "latin1.h5", "w") as out:
        out["features"] = ROWS
        out.create_dataset("ids", data=[b"\xff"] * 7, dtype=h5py.string_dtype())
    for path in tmp_path.iterdir():
        with pytest.raises(DataFileError, match=rf"{path.name}: .*integers or texts"):
            open_features(path)


def test_a_file_without_features_is_refused_with_its_entries(tmp_path: Path) -> None:
    np.savez(tmp_path / "f.npz", vectors=ROWS)
    with h5py.File(tmp_path / "f.h5", "w") as out:
        out["vectors"] = ROWS
        out["features"] = "none"
    for name in ("f.npz", "f.h5"):
        with pytest.raises(DataFileError, match=rf"{name}: expected .*features'?, got .*vectors"):
            open_features(tmp_path / name)
    for name in ("f.txt", "f"):
        with pytest.raises(DataFileError, match=rf"{name}: expected a file of features \(.npy, .*\), got suffix"):
            open_features(tmp_path / name)
    for name in ("no.npy", "no.npz", "no.h5"):
        with pytest.raises(FileNotFoundError, match=name):
            open_features(tmp_path / name)


def test_a_file_with_the_name_of_another_kind_is_refused(tmp_path: Path) -> None:
    kinds = {name: written(tmp_path, kind, ROWS).read_bytes() for kind, (name, _) in list(WRITERS.items())[:4]}
    for name in kinds:
        for other, content in kinds.items():
            if name != other:
                (tmp_path / name).write_bytes(content)
                with pytest.raises(DataFileError, match=name):
                    open_features(tmp_path / name)


@pytest.mark.parametrize("kind", WRITERS)
def test_a_file_cut_at_any_byte_is_refused(kind: str, tmp_path: Path) -> None:
    path = written(tmp_path, kind, ROWS)
    whole = path.read_bytes()
    # headers of HDF5 are long and full of gaps
    for size in range(0, len(whole), 1 if len(whole) < 1000 else 41):
        path.write_bytes(whole[:size])
        with pytest.raises(DataFileError, match=path.name):
            open_features(path)


@given(
    st.sampled_from(["npy", "npz", "npz compressed"]),
    st.lists(st.tuples(st.integers(0, 700), st.integers(0, 255)), min_size=1, max_size=4),
)
@settings(max_examples=150)
def test_any_damage_of_a_file_is_noticed_or_harmless(
    tmp_path_factory: pytest.TempPathFactory, kind: str, damage: list[tuple[int, int]]
) -> None:
    path = written(tmp_path_factory.getbasetemp(), kind, ROWS, list(range(7)))
    content = bytearray(path.read_bytes())
    for place, value in damage:
        content[place % len(content)] = value
    path.write_bytes(content)
    refusal = str(path)
    try:
        assert open_features(path).rows.ndim == 2
    except DataFileError as error:
        refusal = str(error)
    assert str(path) in refusal


def test_a_dataset_stored_in_fewer_bits_is_not_taken_as_it_lies(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as out:
        kind = h5py.h5t.IEEE_F32LE.copy()  # bfloat16: the upper half of a float32
        kind.set_fields(15, 7, 8, 0, 7)
        kind.set_size(2)
        kind.set_ebias(127)
        data = h5py.h5d.create(out.id, b"features", kind, h5py.h5s.create_simple((2, 2)))
        data.write(h5py.h5s.ALL, h5py.h5s.ALL, np.array([[1, 2], [-3, 0.5]], np.float32))
    assert open_features(tmp_path / "f.h5").rows.tolist() == [[1, 2], [-3, 0.5]]


def test_a_mapped_dataset_outlives_its_file(tmp_path: Path) -> None:
    with h5py.File(tmp_path / "f.h5", "w") as out:
        out["whole"] = np.arange(6, dtype=">i4").reshape(2, 3)
        out.create_dataset("scalar", data=np.array(1, ">i2"))
    with open_hdf5(tmp_path / "f.h5", DataFileError) as file:
        arrays = {name: file.map(name) for name in file.shapes}
        with pytest.raises(DataFileError, match=r"f.h5: expected a numeric dataset 'x', got scalar, whole"):
            file.map("x")
    assert all(array.dtype.isnative for array in arrays.values())
    assert arrays["whole"].tolist() == [[0, 1, 2], [3, 4, 5]]
    assert arrays["scalar"] == 1


def test_a_full_disk_is_reported_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    for kind in ("npz", "h5 in chunks"):
        with pytest.raises(OSError, match=r"No space left.*Set TMPDIR") as error:
            open_features(written(tmp_path, kind, ROWS))
        assert error.value.filename == tempfile.gettempdir()
