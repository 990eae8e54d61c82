"""Damaged or inconsistent files of the course's COCO set are refused with file and position."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from capgpu.data.arrays import validate_data
from capgpu.data.cs231n_coco import (
    decode_captions,
    load_coco_data,
)
from capgpu.data.text_files import DataFileError
from oracles.course_files import STORAGE, WORDS, Arrays, course_arrays, write_course_files, write_h5

FILES = [
    "coco2014_captions.h5",
    "coco2014_vocab.json",
    "train2014_urls.txt",
    "train2014_vgg16_fc7_pca.h5",
    "val2014_urls.txt",
    "val2014_vgg16_fc7_pca.h5",
]


@pytest.mark.parametrize("name", FILES)
def test_a_missing_file_is_reported_with_the_download_script(name: str, coco_folder: Path) -> None:
    (coco_folder / name).unlink()
    with pytest.raises(FileNotFoundError, match="get_datasets") as error:
        load_coco_data(coco_folder)
    assert f"{coco_folder}: expected all files" in str(error.value)
    assert "cs231n/datasets/coco_captioning" in str(error.value)


def test_files_of_the_unused_features_are_optional(coco_folder: Path) -> None:
    (coco_folder / "train2014_vgg16_fc7.h5").unlink()
    (coco_folder / "val2014_vgg16_fc7.h5").unlink()
    load_coco_data(coco_folder)
    with pytest.raises(FileNotFoundError, match=r"train2014_vgg16_fc7\.h5, val2014_vgg16_fc7\.h5"):
        load_coco_data(coco_folder, pca_features=False)


@pytest.mark.parametrize("name", FILES)
def test_a_truncated_file_is_named(name: str, coco_folder: Path) -> None:
    os.truncate(coco_folder / name, (coco_folder / name).stat().st_size * 2 // 3)
    with pytest.raises(DataFileError, match=name):
        load_coco_data(coco_folder)


def captions(**changes: Any) -> Callable[[Path, Arrays], None]:
    """Return a function that writes the captions' file with changed datasets; a change of None omits a dataset."""

    def write_damaged(folder: Path, arrays: Arrays) -> None:
        names = [f"{split}_{part}" for split in ("train", "val") for part in ("captions", "image_idxs")]
        values = {name: arrays[name] for name in names}
        for name, change in changes.items():
            values[name] = None if change is None else change(values[name].copy())
        remaining = {name: value for name, value in values.items() if value is not None}
        write_h5(folder / "coco2014_captions.h5", remaining)

    return write_damaged


def with_value(index: Any, value: Any) -> Callable[[Any], Any]:
    def change(array: Any) -> Any:
        array[index] = value
        return array

    return change


def features(change: Callable[[Any], Any], name: str = "features") -> Callable[[Path, Arrays], None]:
    def write_damaged(folder: Path, arrays: Arrays) -> None:
        write_h5(folder / "val2014_vgg16_fc7_pca.h5", {name: change(arrays["val_features"].copy())})

    return write_damaged


def vocabulary(words: Any, ids: Any) -> Callable[[Path, Arrays], None]:
    def write_damaged(folder: Path, _: Arrays) -> None:
        (folder / "coco2014_vocab.json").write_text(json.dumps({"idx_to_word": words, "word_to_idx": ids}))

    return write_damaged


def urls(content: bytes) -> Callable[[Path, Arrays], None]:
    def write_damaged(folder: Path, _: Arrays) -> None:
        (folder / "val2014_urls.txt").write_bytes(content)

    return write_damaged


IDS = {word: i for i, word in enumerate(WORDS)}

DAMAGES: dict[str, tuple[Callable[[Path, Arrays], None], str]] = {
    "no such captions": (captions(val_captions=None), "captions.h5: expected a numeric dataset 'val_captions', got "),
    "an id beyond the words": (
        captions(train_captions=with_value((4, 2), 12)),
        r"captions.h5: train_captions\[4, 2\]: expected 0 to 11 for 12 words in .*coco2014_vocab.json, got 12",
    ),
    "a negative id": (
        captions(val_captions=with_value((0, 1), -1)),
        r"val_captions\[0, 1\]: expected 0 to 11 .* got -1",
    ),
    "a picture beyond the features": (
        captions(val_image_idxs=with_value(5, 3)),
        r"captions.h5: val_image_idxs\[5\]: expected 0 to 2 for 3 rows in .*val2014_vgg16_fc7_pca.h5, got 3",
    ),
    "a negative picture": (captions(train_image_idxs=with_value(1, -2)), r"train_image_idxs\[1\]: expected .* got -2"),
    "an empty caption": (captions(train_captions=with_value(6, 0)), r"train_captions\[6\]: expected at least one word"),
    "no captions": (
        captions(val_captions=lambda a: a[:0]),
        r"val_captions: expected integer token ids .* got shape \(0, 17\)",
    ),
    "captions of one step": (
        captions(val_captions=lambda a: a[:, :1]),
        r"val_captions: expected integer token ids .* got shape \(9, 1\)",
    ),
    "captions in floats": (
        captions(val_captions=lambda a: a.astype(float)),
        "expected integer token ids .* dtype float64",
    ),
    "captions in a row": (
        captions(val_captions=lambda a: a[0]),
        r"val_captions: expected integer token ids .* got shape \(17,\)",
    ),
    "captions in words": (captions(val_captions=lambda a: [b"a", b"b"]), "expected a numeric dataset 'val_captions'"),
    "fewer pictures than captions": (
        captions(val_image_idxs=lambda a: a[:-1]),
        r"val_image_idxs: expected one integer for each caption, shape \(9,\), got shape \(8,\) and dtype int32",
    ),
    "pictures in floats": (
        captions(val_image_idxs=lambda a: a.astype("f4")),
        "val_image_idxs: expected one integer .* float32",
    ),
    "features of fewer pictures": (
        features(lambda a: a[:-1]),
        r"val_image_idxs\[\d+\]: expected 0 to 1 for 2 rows .* got 2",
    ),
    "features by another name": (
        features(lambda a: a, "fc7"),
        "pca.h5: expected a numeric dataset 'features', got fc7",
    ),
    "features in whole numbers": (
        features(lambda a: a.astype(int)),
        "val2014_vgg16_fc7_pca.h5: features: expected floats .* int64",
    ),
    "features in a row": (features(lambda a: a[0]), r"val2014_vgg16_fc7_pca.h5: .* shape \(6,\)"),
    "features that are not finite": (
        features(with_value((2, 1), np.nan)),
        "val2014_vgg16_fc7_pca.h5: features: expected .* got others in row 2",
    ),
    "features of another length": (
        features(lambda a: a[:, :5]),
        "val2014_vgg16_fc7_pca.h5: expected vectors of length 6, as in train2014_vgg16_fc7_pca.h5, got 5",
    ),
    "words in a text": (vocabulary("words", IDS), "vocab.json: expected idx_to_word"),
    "no ids": (vocabulary(WORDS, None), "vocab.json: expected idx_to_word"),
    "other special words": (vocabulary(WORDS[::-1], IDS), "vocab.json: idx_to_word: .*special words"),
    "a word that is none": (vocabulary([*WORDS, 5], IDS), r"vocab.json: idx_to_word\[12\]: expected a text.*got .*5"),
    "a word twice": (vocabulary([*WORDS, "dog"], IDS), "vocab.json: idx_to_word: .*'dog'"),
    "an id of another word": (
        vocabulary(WORDS, {**IDS, "man": 6, "on": 5}),
        r"vocab.json: word_to_idx: expected the id 5 of 'man', as in idx_to_word, got 6",
    ),
    "a word without an id": (
        vocabulary([*WORDS, "cat"], IDS),
        r"word_to_idx: expected the id 12 of 'cat', as in idx_to_word, got None",
    ),
    "an id without a word": (
        vocabulary(WORDS, {**IDS, "cat": 12}),
        "word_to_idx: expected the words of idx_to_word, got 'cat'",
    ),
    "fewer addresses than pictures": (
        urls(b"a\nb\n"),
        "val2014_urls.txt: expected one line for each of 3 pictures with features, got 2",
    ),
    "addresses in another encoding": (urls(b"a\nb\xe4\nc\n"), "val2014_urls.txt, line 2: .* is not UTF-8"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_inconsistent_contents_are_refused_with_file_and_position(
    name: str, coco_folder: Path, coco_arrays: Arrays
) -> None:
    write_damaged, message = DAMAGES[name]
    write_damaged(coco_folder, coco_arrays)
    with pytest.raises(DataFileError, match=message) as error:
        load_coco_data(coco_folder)
    assert str(coco_folder) in str(error.value)


@pytest.mark.parametrize("chunks", [None, (2, 3)])
def test_features_that_were_never_written_are_refused(chunks: Any, coco_folder: Path, coco_arrays: Arrays) -> None:
    import h5py

    with h5py.File(coco_folder / "val2014_vgg16_fc7_pca.h5", "w") as file:
        rows = file.create_dataset("features", (3, 6), "f4", chunks=chunks)
        if chunks:
            rows[:2] = coco_arrays["val_features"][:2]
    with pytest.raises(DataFileError, match=r"pca.h5: /features: expected a complete dataset of shape \(3, 6\)"):
        load_coco_data(coco_folder)


def odd_floats(file: Any) -> None:
    import h5py

    floats = h5py.h5t.IEEE_F32LE.copy()
    floats.set_ebias(10**6)  # exponents beyond any type of NumPy
    h5py.h5d.create(file.id, b"features", floats, h5py.h5s.create_simple((3, 6)))


def unix_times(file: Any) -> None:
    import h5py

    h5py.h5d.create(file.id, b"features", h5py.h5t.UNIX_D32LE, h5py.h5s.create_simple((3, 6)))


def odd_name(file: Any) -> None:
    file[b"feature\xff"] = np.zeros((3, 6), np.float32)


def named_type(file: Any) -> None:
    file["features"] = np.dtype("f4")


@pytest.mark.parametrize("write", [odd_floats, unix_times, odd_name, named_type])
def test_hdf5_types_without_numpy_equivalent_are_refused(write: Callable[[Any], None], coco_folder: Path) -> None:
    import h5py

    with h5py.File(coco_folder / "val2014_vgg16_fc7_pca.h5", "w") as file:
        write(file)
    with pytest.raises(DataFileError, match=r"val2014_vgg16_fc7_pca\.h5.* 'features'"):
        load_coco_data(coco_folder)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"a\r\nb\r\nc", ["a", "b", "c"]),
        (b"a\nb \rc\n", ["a", "b", "c"]),
        (b"\xef\xbb\xbfa\nb\x0cd\n\n", ["a", "b\x0cd", ""]),
    ],
)
def test_urls_are_separated_by_line_ends_only(
    content: bytes, expected: list[str], coco_folder: Path, coco_arrays: Arrays
) -> None:
    urls(content)(coco_folder, coco_arrays)
    assert load_coco_data(coco_folder)["val_urls"].tolist() == expected


@settings(max_examples=150)
@given(
    st.sampled_from(FILES),
    st.booleans(),
    st.floats(0, 1, exclude_max=True),
    st.one_of(st.none(), st.integers(0, 255)),
)
def test_a_damaged_file_gives_valid_data_or_a_clear_error(
    tmp_path_factory: pytest.TempPathFactory, name: str, compressed: bool, fraction: float, byte: int | None
) -> None:
    folder = tmp_path_factory.getbasetemp() / f"damaged-{compressed}"
    if not folder.exists():
        write_course_files(folder, course_arrays(), **STORAGE[2 if compressed else 0])
    content = (folder / name).read_bytes()
    position = int(fraction * len(content))
    (folder / name).write_bytes(content[:position] + (b"" if byte is None else bytes([byte]) + content[position + 1 :]))
    try:
        data = load_coco_data(folder)
    except (DataFileError, OSError) as error:
        message = str(error)
    else:
        message = ""
        validate_data(data, ("train", "val"), vocab_size=len(data["idx_to_word"]))
        assert decode_captions(data["val_captions"], data["idx_to_word"])
    finally:
        (folder / name).write_bytes(content)
    assert not message or str(folder) in message
