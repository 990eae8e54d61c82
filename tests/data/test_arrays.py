"""The data dictionary: every defect gets its own error; captions are drawn with their pictures."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from capgpu.data.arrays import known_finite, sample_minibatch, split_arrays, splits_of, validate_data


def dictionary(captions: int = 7, images: int = 4) -> dict[str, Any]:
    """Return a data dictionary whose captions and features tell which row they are."""
    rows = np.arange(captions, dtype=np.int32)
    return {
        "train_captions": np.stack([np.ones_like(rows), rows % 10, np.full_like(rows, 2)], axis=1),
        "train_image_idxs": rows[::-1] % images,
        "train_features": np.arange(images, dtype=np.float32)[:, None] + np.zeros((1, 3), dtype=np.float32),
        "idx_to_word": [f"w{i}" for i in range(10)],
        "word_to_idx": {f"w{i}": i for i in range(10)},
    }


def test_a_sound_dictionary_passes() -> None:
    validate_data(dictionary(), vocab_size=10, feature_dim=3)


def changed(key: str, value: Any) -> dict[str, Any]:
    return {**dictionary(), key: value}


def test_the_smallest_and_largest_valid_entries_are_accepted() -> None:
    one = dictionary(captions=1, images=1)
    one["train_captions"] = np.array([[0, 9]])  # two steps, the first and the last of 10 ids
    one["train_features"] = np.array([[np.finfo(np.float32).max]], dtype=np.float32)
    validate_data(one, vocab_size=10, feature_dim=1)
    last = dictionary()
    last["train_image_idxs"] = np.array([0, 3, 3, 3, 3, 3, 3])
    validate_data(last)


@pytest.mark.parametrize("steps", [1, 0])
def test_captions_of_less_than_two_steps_are_refused(steps: int) -> None:
    with pytest.raises(ValueError, match=f"train_captions: expected at least .*got shape \\(7, {steps}\\)"):
        validate_data(changed("train_captions", np.ones((7, steps), dtype=int)))


@pytest.mark.parametrize(
    ("data", "error", "words"),
    [
        (None, TypeError, "data: expected a dict .* got NoneType"),
        ({}, ValueError, "expected the entries train_captions, train_image_idxs, train_features"),
        (
            {k: v for k, v in dictionary().items() if k != "train_features"},
            ValueError,
            "data: expected the entries train_features of the split 'train'.*Splits with captions: train",
        ),
        (
            changed("train_captions", dictionary()["train_captions"].tolist()),
            TypeError,
            "expected a NumPy array.*got builtins.list",
        ),
        (changed("train_captions", np.ones((7, 3))), TypeError, "expected integers, got dtype float64"),
        (
            changed("train_captions", np.ones(7, dtype=int)),
            ValueError,
            r"expected shape \(captions, steps\), got \(7,\)",
        ),
        (changed("train_captions", np.ones((0, 3), dtype=int)), ValueError, "Remove the empty split"),
        (changed("train_captions", np.ones((7, 1), dtype=int)), ValueError, "at least 2 steps"),
        (
            changed("train_captions", np.full((7, 3), 10)),
            ValueError,
            r"expected 0\.\.9 for 10 token ids.* got 10 in row 0",
        ),
        (changed("train_captions", np.full((7, 3), -1)), ValueError, r"expected 0\.\.9 .* got -1"),
        (
            changed("train_image_idxs", np.zeros(6, dtype=int)),
            ValueError,
            "expected one image for each of 7 captions, got 6",
        ),
        (changed("train_image_idxs", np.zeros(7)), TypeError, "train_image_idxs: expected integers, got dtype float64"),
        (
            changed("train_image_idxs", np.full(7, 4)),
            ValueError,
            r"expected 0\.\.3 for 4 rows of train_features, got 4 in row 0",
        ),
        (changed("train_features", np.zeros((4, 3), dtype=int)), TypeError, "floating"),
        (changed("train_features", np.zeros((4, 3, 1, 1))), ValueError, r"expected shape \(images, \[cells,\] feature"),
        (changed("train_features", np.zeros((0, 3))), ValueError, "Remove the empty split"),
        (
            changed("train_features", np.zeros((4, 5))),
            ValueError,
            "expected vectors of length 3, as the model's input_dim, got 5",
        ),
        (changed("train_features", np.array([[0.0, 0, 0]] * 3 + [[0, np.nan, 0]])), ValueError, "row 3"),
        (
            changed("train_features", np.full((4, 3), np.inf)),
            ValueError,
            "expected finite values, got NaN or infinity in row 0",
        ),
    ],
)
def test_each_defect_has_its_own_error(data: Any, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        validate_data(data, feature_dim=3)


def test_a_misspelt_split_is_distinguished_from_a_missing_one() -> None:
    with pytest.raises(ValueError, match="Did you mean 'train'"):
        split_arrays(dictionary(), "trian")


def test_the_vocabulary_limits_the_ids_where_no_model_does() -> None:
    data = changed("train_captions", np.full((7, 3), 11))
    with pytest.raises(ValueError, match="10 token ids"):
        validate_data(data)
    del data["idx_to_word"]
    data["word_to_idx"] = {"far": 11}
    validate_data(data)


def test_a_bad_row_far_down_is_found() -> None:
    data = dictionary(captions=3, images=20_000)
    data["train_features"][17_123, 1] = np.nan
    with pytest.raises(ValueError, match="row 17123"):
        validate_data(data)


def test_only_the_splits_asked_for_are_checked() -> None:
    data = {**dictionary(), "val_captions": "nonsense"}
    validate_data(data)
    assert splits_of(data) == ["train", "val"]
    with pytest.raises(ValueError, match="expected the entries val_image_idxs, val_features"):
        validate_data(data, ("train", "val"))


def test_sampling_pairs_captions_with_their_images_and_repeats_with_its_seed() -> None:
    data = dictionary()
    captions, features, image_idxs = sample_minibatch(data, 50, "train", 3)
    assert captions.shape == (50, 3)
    assert len(set(captions[:, 1].tolist())) == 7
    np.testing.assert_array_equal(image_idxs, data["train_image_idxs"][captions[:, 1]])
    np.testing.assert_array_equal(features[:, 0], image_idxs)
    again = sample_minibatch(data, 50, "train", np.random.default_rng(3))
    np.testing.assert_array_equal(again[0], captions)


def test_a_batch_has_at_least_one_caption() -> None:
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        sample_minibatch(dictionary(), 0)


def test_only_what_cannot_be_written_is_known_to_be_finite() -> None:
    array = np.ones((2, 3), np.float32)
    with pytest.raises(ValueError, match="expected a read-only array"):
        known_finite(array)
    array.flags.writeable = False
    assert known_finite(array) is array
    array.flags.writeable = True
    array[0] = np.nan
    with pytest.raises(ValueError, match="NaN"):
        validate_data(dictionary() | {"train_features": array, "train_image_idxs": np.zeros(7, np.int32)})


def test_captions_that_teach_nothing_are_refused():
    data = {
        "word_to_idx": {"<NULL>": 0, "<START>": 1, "<END>": 2, "cat": 3},
        "train_captions": np.array([[1, 3, 2], [3, 2, 0]]),
        "train_features": np.ones((2, 4), np.float32),
        "train_image_idxs": np.arange(2),
    }
    with pytest.raises(ValueError, match=r"train_captions: expected <START> \(id 1\) first .* got id 3 in row 1"):
        validate_data(data, ["train"])
    data["train_captions"][:] = [1, 0, 0]
    with pytest.raises(ValueError, match="train_captions: expected words to learn, got <NULL> only"):
        validate_data(data, ["train"])
    data["train_captions"][0, 1] = 3
    validate_data(data, ["train"])
