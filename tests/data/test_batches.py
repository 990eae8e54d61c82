"""Minibatches: every caption has its place in an epoch, whatever the order, and the features of its picture."""

from __future__ import annotations

import threading
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from capgpu.data.batches import _POOL, epoch_batches, evaluation_batches, iterations_per_epoch

GROUPED: dict[str, Any] = {"group_by_length": True}


def dictionary(captions: int = 7, images: int = 4, seed: int = 0) -> dict[str, Any]:
    """Return a data dictionary whose second words are the captions' rows, and whose features the pictures'."""
    rows = np.arange(captions, dtype=np.int32)
    written = np.ones((captions, 9), dtype=np.int32)
    written[:, 1] = rows + 3
    written[np.arange(9) > np.random.default_rng(seed).integers(1, 9, (captions, 1))] = 0
    return {
        "train_captions": written,
        "train_image_idxs": rows[::-1] % images,
        "train_features": np.arange(images, dtype=np.float32)[:, None] + np.zeros((1, 3), dtype=np.float32),
        "word_to_idx": {"<NULL>": 0, "<START>": 1, "<END>": 2},
    }


def rows_of(captions: np.ndarray[Any, Any]) -> list[int]:
    return (captions[:, 1] - 3).tolist()


def lengths_of(captions: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return (captions != 0).sum(axis=1)


@hypothesis.given(
    count=st.integers(1, 60),
    batch_size=st.integers(1, 80),
    seed=st.integers(0, 5),
    grouped=st.booleans(),
    start=st.integers(0, 3),
)
@hypothesis.example(count=60, batch_size=7, seed=1, grouped=True, start=2)
@hypothesis.example(count=33, batch_size=33, seed=1, grouped=True, start=1)
def test_an_epoch_holds_every_caption_once_in_as_many_batches_as_the_course_makes(
    count: int, batch_size: int, seed: int, grouped: bool, start: int
) -> None:
    data = dictionary(count)
    batches = list(epoch_batches(data, batch_size, seed=seed, epoch=2, group_by_length=grouped))
    number = max(count // batch_size, 1)
    assert len(batches) == iterations_per_epoch(count, batch_size) == number
    assert sorted(row for captions, _, _ in batches for row in rows_of(captions)) == list(range(count))
    share, rest = divmod(count, number)
    assert [len(captions) for captions, _, _ in batches] == [share + 1] * rest + [share] * (number - rest)
    for captions, features, image_idxs in batches:
        np.testing.assert_array_equal(image_idxs, data["train_image_idxs"][rows_of(captions)])
        np.testing.assert_array_equal(features[:, 0], image_idxs)
    continued = list(epoch_batches(data, batch_size, seed=seed, epoch=2, start=start, group_by_length=grouped))
    assert [rows_of(batch[0]) for batch in continued] == [rows_of(batch[0]) for batch in batches[start:]]


def orders(grouped: bool, **arguments: int) -> list[list[int]]:
    batches = epoch_batches(dictionary(60), 7, group_by_length=grouped, **arguments)  # type: ignore[arg-type]
    return [rows_of(captions) for captions, _, _ in batches]


@pytest.mark.parametrize("grouped", [False, True])
def test_the_order_depends_on_seed_and_epoch_alone(grouped: bool) -> None:
    assert orders(grouped, seed=1, epoch=0) == orders(grouped, seed=1, epoch=0)
    assert orders(grouped, seed=1, epoch=0) != orders(grouped, seed=1, epoch=1)
    assert orders(grouped, seed=1, epoch=0) != orders(grouped, seed=2, epoch=0)


def test_a_shuffled_order_is_the_one_that_earlier_runs_have_had() -> None:
    order = np.array_split(np.random.default_rng([5, 3]).permutation(60), 8)
    assert orders(False, seed=5, epoch=3) == [batch.tolist() for batch in order]


# --- grouped by length ------------------------------------------------------------------------------------


def test_captions_of_one_pool_share_a_minibatch_with_their_neighbours_in_length() -> None:
    data = dictionary(_POOL * 5)
    batches = [captions for captions, _, _ in epoch_batches(data, 5, seed=0, epoch=0, group_by_length=True)]
    spans = sorted((int(lengths_of(batch).min()), int(lengths_of(batch).max())) for batch in batches)
    assert all(longest <= shortest for (_, longest), (shortest, _) in pairwise(spans))


def test_grouping_leaves_the_order_of_the_lengths_to_chance() -> None:
    data = dictionary(2 * _POOL * 5)
    longest = [
        [int(lengths_of(captions).max()) for captions, _, _ in epoch_batches(data, 5, seed=0, epoch=epoch, **GROUPED)]
        for epoch in range(40)
    ]
    assert longest[0] != sorted(longest[0])
    # each place sees all lengths in the course of the epochs
    means = np.mean(longest, axis=0)
    assert np.ptp(means) < np.ptp(longest[0]) / 2


def test_captions_of_one_length_are_with_others_in_every_epoch() -> None:
    data = dictionary(200)
    data["train_captions"][:, 2:] = 2
    first, second = (
        {frozenset(rows_of(batch[0])) for batch in epoch_batches(data, 5, seed=0, epoch=epoch, **GROUPED)}
        for epoch in range(2)
    )
    assert not first & second


def test_captions_are_sorted_within_a_pool_and_not_within_the_epoch() -> None:
    count = 4 * _POOL * 2
    data = dictionary(count)
    data["train_captions"] = np.tri(count, count + 2, 2, dtype=np.int32)  # all lengths are different
    first, second = (
        {frozenset(lengths_of(batch[0]).tolist()) for batch in epoch_batches(data, 2, seed=0, epoch=epoch, **GROUPED)}
        for epoch in range(2)
    )
    assert len(first & second) < len(first) / 4


def test_a_caption_is_as_long_as_packing_takes_it_with_nulls_between_its_words() -> None:
    data = dictionary(4)
    data["train_captions"][:] = [
        [1, 3, 0, 0, 0, 9, 0, 0, 0],
        [1, 4, 9, 0, 0, 0, 0, 0, 0],
        [1, 5, 9, 9, 9, 9, 9, 0, 0],
        [1, 6, 9, 9, 0, 0, 0, 0, 0],
    ]
    batches = [sorted(rows_of(batch[0])) for batch in epoch_batches(data, 2, seed=0, epoch=0, **GROUPED)]
    assert sorted(batches) == [[0, 2], [1, 3]]


# --- evaluation -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("batch_size", "sizes"), [(3, [3, 3, 1]), (7, [7]), (100, [7])])
def test_evaluation_goes_through_everything_in_order(batch_size: int, sizes: list[int]) -> None:
    data = dictionary()
    batches = list(evaluation_batches(data, batch_size, "train"))
    assert [len(captions) for captions, _, _ in batches] == sizes
    np.testing.assert_array_equal(np.concatenate([b[0] for b in batches]), data["train_captions"])
    np.testing.assert_array_equal(np.concatenate([b[1] for b in batches])[:, 0], data["train_image_idxs"])


def test_a_batch_has_at_least_one_caption() -> None:
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        evaluation_batches(dictionary(), 0, "train")
    with pytest.raises(ValueError, match="batch_size: expected at least 1, got 0"):
        epoch_batches(dictionary(), 0, seed=0, epoch=0)


# --- features of a mapped file ----------------------------------------------------------------------------


def mapped(data: dict[str, Any], folder: Path) -> dict[str, Any]:
    np.save(folder / "features.npy", data["train_features"])
    return {**data, "train_features": np.load(folder / "features.npy", mmap_mode="r")}


def helpers() -> list[str]:
    return [thread.name for thread in threading.enumerate() if "prefetch" in thread.name]


@pytest.mark.parametrize("grouped", [False, True])
def test_rows_of_a_mapped_file_are_those_of_memory_and_gathered_ahead_on_a_thread(
    tmp_path: Path, grouped: bool
) -> None:
    data = dictionary(33)
    settings: dict[str, Any] = {"seed": 2, "epoch": 1, "group_by_length": grouped}
    there = epoch_batches(mapped(data, tmp_path), 5, **settings)
    here = epoch_batches(data, 5, **settings)
    for batch, wanted in zip(there, here, strict=True):
        assert helpers() == ["capgpu-prefetch_0"]
        for array, expected in zip(batch, wanted, strict=True):
            assert type(array) is np.ndarray
            np.testing.assert_array_equal(array, expected)
    assert helpers() == []


def test_leaving_an_epoch_early_leaves_no_thread_behind(tmp_path: Path) -> None:
    with closing(epoch_batches(mapped(dictionary(33), tmp_path), 2, seed=0, epoch=0)) as batches:
        next(batches)
    assert helpers() == []


def test_rows_in_memory_need_no_thread() -> None:
    with closing(epoch_batches(dictionary(33), 2, seed=0, epoch=0)) as batches:
        next(batches)
        assert helpers() == []
