"""The cs231n course's COCO set: loading, minibatches, recognition and identity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capgpu
import capgpu.data.feature_files
import capgpu.vocabulary
from capgpu.data.arrays import validate_data
from capgpu.data.cs231n_coco import (
    coco_identity,
    decode_captions,
    has_pca_features,
    is_cs231n_coco,
    load_coco_data,
    sample_coco_minibatch,
)
from oracles.course_files import STORAGE, WORDS, Arrays, course_arrays, write_course_files
from oracles.shared_data import shared_data

ARRAYS = ("captions", "image_idxs", "features", "urls")


@pytest.mark.parametrize("storage", STORAGE, ids=["contiguous", "chunked", "compressed"])
@pytest.mark.parametrize("pca", [True, False])
def test_files_are_loaded_as_the_courses_dictionary(
    storage: dict[str, Any], pca: bool, tmp_path: Path, coco_arrays: Arrays, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capgpu.data.feature_files, "_BYTES_AT_ONCE", 60)  # read a few rows at a time
    data = load_coco_data(write_course_files(tmp_path, coco_arrays, **storage), pca_features=pca)
    assert set(data) == {f"{split}_{array_name}" for split in ("train", "val") for array_name in ARRAYS} | {
        "idx_to_word",
        "word_to_idx",
    }
    for split in ("train", "val"):
        coco_arrays[f"{split}_features"] = coco_arrays[f"{split}_features{'' if pca else '_4096'}"]
        for array_name in ARRAYS:
            np.testing.assert_array_equal(data[f"{split}_{array_name}"], coco_arrays[f"{split}_{array_name}"])
        assert data[f"{split}_captions"].dtype == data[f"{split}_image_idxs"].dtype == np.int32
        assert type(data[f"{split}_captions"]) is type(data[f"{split}_urls"]) is np.ndarray
        assert data[f"{split}_captions"].flags.writeable  # exercises may modify them
        assert data[f"{split}_urls"].dtype.kind == "U"
    assert data["idx_to_word"] == WORDS
    assert data["word_to_idx"] == {word: i for i, word in enumerate(WORDS)}
    validate_data(data, ("train", "val"))


@pytest.mark.parametrize("storage", STORAGE, ids=["contiguous", "chunked", "compressed"])
def test_features_are_memory_mapped_and_read_only(storage: dict[str, Any], tmp_path: Path, coco_arrays: Arrays) -> None:
    data = load_coco_data(write_course_files(tmp_path, coco_arrays, **storage))
    for split in ("train", "val"):
        assert type(data[f"{split}_features"]) is np.memmap
        assert not data[f"{split}_features"].flags.writeable


def global_state() -> list[int]:
    return np.random.get_state()[1].tolist()  # noqa: NPY002 -- the state under test


def test_random_choices_are_the_courses_from_numpys_global_generator(coco_folder: Path, coco_arrays: Arrays) -> None:
    np.random.seed(231)  # noqa: NPY002 -- as the course's notebooks do
    data = load_coco_data(coco_folder, max_train=50)
    captions, features, urls = sample_coco_minibatch(data, batch_size=33, split="val")
    course = np.random.RandomState(231)
    mask = course.randint(21, size=50)
    chosen = course.choice(9, 33)
    np.testing.assert_array_equal(data["train_captions"], coco_arrays["train_captions"][mask])
    np.testing.assert_array_equal(data["train_image_idxs"], coco_arrays["train_image_idxs"][mask])
    np.testing.assert_array_equal(data["train_features"], coco_arrays["train_features"])
    np.testing.assert_array_equal(captions, coco_arrays["val_captions"][chosen])
    images = coco_arrays["val_image_idxs"][chosen]
    np.testing.assert_array_equal(features, coco_arrays["val_features"][images])
    np.testing.assert_array_equal(urls, np.array(coco_arrays["val_urls"])[images])


def test_random_choices_with_a_seed_do_not_use_the_global_generator(coco_folder: Path) -> None:
    before = global_state()
    first, second = (load_coco_data(coco_folder, 3, rng=7) for _ in range(2))
    np.testing.assert_array_equal(first["train_captions"], second["train_captions"])
    batches = [sample_coco_minibatch(first, 5, rng=np.random.default_rng(4)) for _ in range(2)]
    for first_array, other in zip(*batches, strict=True):
        np.testing.assert_array_equal(first_array, other)
    other = sample_coco_minibatch(first, 5, rng=5)[0]
    assert not np.array_equal(batches[0][0], other)
    assert global_state() == before


def test_a_minibatch_has_arrays_of_the_courses_shapes_and_dtypes(coco_folder: Path) -> None:
    captions, features, urls = sample_coco_minibatch(load_coco_data(coco_folder), batch_size=5)
    assert (captions.shape, features.shape, urls.shape) == ((5, 17), (5, 6), (5,))
    assert (captions.dtype, features.dtype, urls.dtype.kind) == (np.int32, np.float32, "U")
    assert type(features) is np.ndarray


def test_decode_captions_is_that_of_the_vocabulary_module(coco_folder: Path) -> None:
    data = load_coco_data(coco_folder)
    assert decode_captions is capgpu.vocabulary.decode_captions
    text = decode_captions(data["val_captions"][0], data["idx_to_word"])
    assert text.startswith("<START> ")
    assert text.endswith(" <END>")


def test_the_solver_trains_on_the_loaded_data(coco_folder: Path) -> None:
    data = load_coco_data(coco_folder, max_train=9, rng=0)
    with capgpu.use_backend("numpy"):
        model = capgpu.CaptioningRNN(
            data["word_to_idx"], input_dim=6, wordvec_dim=5, hidden_dim=7, cell_type="lstm", seed=1
        )
        solver = capgpu.CaptioningSolver(model, data, "adam", batch_size=4, num_epochs=3, seed=1, verbose=False)
        solver.train()
    assert len(solver.val_loss_history) == 3
    assert solver.val_loss_history[-1] < solver.val_loss_history[0]


def test_the_courses_own_vocabulary_is_accepted(tmp_path: Path, coco_arrays: Arrays) -> None:
    write_course_files(tmp_path, coco_arrays)
    (tmp_path / "coco2014_vocab.json").write_bytes(shared_data("coco2014_vocab.json").read_bytes())
    data = load_coco_data(tmp_path)
    assert len(data["idx_to_word"]) == len(data["word_to_idx"]) == 1004
    assert data["idx_to_word"][:5] == ["<NULL>", "<START>", "<END>", "<UNK>", "a"]


def test_a_folder_is_recognized_by_any_of_its_files(coco_folder: Path, tmp_path: Path) -> None:
    assert is_cs231n_coco(coco_folder)
    assert not is_cs231n_coco(tmp_path)
    (coco_folder / "coco2014_captions.h5").unlink()
    assert is_cs231n_coco(coco_folder)


def test_pca_features_are_detected_by_either_file(coco_folder: Path) -> None:
    assert has_pca_features(coco_folder)
    (coco_folder / "val2014_vgg16_fc7_pca.h5").unlink()
    assert has_pca_features(coco_folder)  # loading then reports the missing file
    (coco_folder / "train2014_vgg16_fc7_pca.h5").unlink()
    assert not has_pca_features(coco_folder)
    assert load_coco_data(coco_folder, pca_features=False)["val_features"].shape == (3, 12)


def test_the_identity_does_not_depend_on_hdf5_storage(tmp_path: Path, coco_arrays: Arrays) -> None:
    stored = [write_course_files(tmp_path / str(i), coco_arrays, **storage) for i, storage in enumerate(STORAGE)]
    assert len({coco_identity(load_coco_data(folder)) for folder in stored}) == 1


@pytest.mark.parametrize("name", ["train_captions", "train_image_idxs", "val_captions", "val_features"])
def test_the_identity_depends_on_the_contents(name: str, tmp_path: Path, coco_arrays: Arrays) -> None:
    original_identity = coco_identity(load_coco_data(write_course_files(tmp_path, coco_arrays)))
    coco_arrays[name][-1] = coco_arrays[name][0] if coco_arrays[name].ndim > 1 else (coco_arrays[name][-1] + 1) % 7
    assert coco_identity(load_coco_data(write_course_files(tmp_path, coco_arrays))) != original_identity


def test_the_identity_depends_on_the_vocabulary(tmp_path: Path, coco_arrays: Arrays) -> None:
    original_identity = coco_identity(load_coco_data(write_course_files(tmp_path, coco_arrays)))
    words = [*WORDS[:-1], "cat"]
    coco_arrays |= {"idx_to_word": words, "word_to_idx": {word: i for i, word in enumerate(words)}}
    assert coco_identity(load_coco_data(write_course_files(tmp_path, coco_arrays))) != original_identity


def test_the_identity_depends_on_features_of_many_pictures(tmp_path: Path) -> None:
    arrays = course_arrays(train=1000, captions=1)
    data = load_coco_data(write_course_files(tmp_path, arrays))
    original_identity = coco_identity(data)
    data["train_features"] = data["train_features"] * np.float32(1.001)
    assert coco_identity(data) != original_identity


@pytest.mark.parametrize("bad", [{"max_train": 0}, {"max_train": -3}])
def test_max_train_below_one_is_refused(bad: dict[str, int], coco_folder: Path) -> None:
    with pytest.raises(ValueError, match="max_train"):
        load_coco_data(coco_folder, **bad)


def test_a_minibatch_without_batch_size_split_or_urls_is_refused(coco_folder: Path) -> None:
    data = load_coco_data(coco_folder)
    with pytest.raises(ValueError, match="batch_size"):
        sample_coco_minibatch(data, 0)
    with pytest.raises(ValueError, match="split 'test'"):
        sample_coco_minibatch(data, 2, "test")
    del data["val_urls"]
    with pytest.raises(ValueError, match="expected the entry val_urls"):
        sample_coco_minibatch(data, 2, "val")
