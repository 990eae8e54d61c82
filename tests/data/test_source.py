"""Splits by their names, and pictures taken from others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from capgpu.data.source import UNSPLIT, Pictures, Source, by_split, split_name
from capgpu.data.split import split_pictures
from capgpu.data.text_files import DataFileError


def some(count: int) -> Pictures:
    return Pictures(
        list(range(count)),
        [[f"caption {i}"] for i in range(count)],
        [Path(f"{i}.png") for i in range(count)],
        np.zeros((count + 1, 2)),
        np.arange(count)[::-1] + 1,
    )


@pytest.mark.parametrize(
    ("given_name", "name"),
    [("train", "train"), (" Validation\n", "val"), ("DEV", "val"), ("restval", "train"), ("test_2", "test_2")],
)
def test_other_names_of_a_split_are_known(given_name: str, name: str) -> None:
    assert split_name(given_name, "line 1") == name


# the last ones would be the names of other files of a prepared folder
@pytest.mark.parametrize("name", ["", "2", "a b", "../x", "é", "x" * 40, "all", "prepared", "Vocabulary", "encoder"])
def test_what_cannot_name_a_split_is_refused(name: str) -> None:
    with pytest.raises(DataFileError, match=r"line 3: expected a split such as train"):
        split_name(name, "line 3")


def test_pictures_are_taken_with_all_that_is_theirs() -> None:
    taken = some(5).take([3, 0])
    assert taken.image_ids == [3, 0]
    assert taken.captions == [["caption 3"], ["caption 0"]]
    assert taken.files == [Path("3.png"), Path("0.png")]
    assert taken.rows is not None
    assert taken.rows.tolist() == [2, 5]
    assert len(Pictures([1], [["a"]]).take([0])) == 1


@given(st.lists(st.sampled_from(["train", "val", "x"]), min_size=1, max_size=9))
def test_splits_part_the_pictures_and_keep_their_order(names: list[str]) -> None:
    splits = by_split(some(len(names)), names)
    assert {name: pictures.image_ids for name, pictures in splits.items()} == {
        name: [i for i, own in enumerate(names) if own == name] for name in names
    }
    assert list(by_split(some(2), None)) == [UNSPLIT]


shares = st.sampled_from([0.0, 0.01, 0.1, 0.4, 0.5, 0.99])


@given(st.integers(1, 33), shares, shares, st.integers(0, 3))
def test_division_parts_the_pictures_or_says_why_not(count: int, val: float, test: float, seed: int) -> None:
    source = Source("folder", Path("captions.csv"), {UNSPLIT: some(count)})
    if sum(max(round(share * count), share > 0) for share in (val, test)) >= count:
        with pytest.raises(ValueError, match="expected fractions that leave training pictures"):
            split_pictures(source, val, test, seed)
        return
    splits = split_pictures(source, val, test, seed)
    assert next(iter(splits)) == "train"
    assert set(splits) == {"train"} | {name for name, share in (("val", val), ("test", test)) if share}
    assert sorted(i for pictures in splits.values() for i in pictures.image_ids) == list(range(count))
    assert all(pictures.image_ids == sorted(pictures.image_ids) for pictures in splits.values())
    again = split_pictures(source, val, test, seed)
    assert {name: own.image_ids for name, own in again.items()} == {name: own.image_ids for name, own in splits.items()}


def test_another_seed_divides_otherwise() -> None:
    source = Source("folder", Path("captions.csv"), {UNSPLIT: some(33)})
    assert split_pictures(source, 0.3, 0, 0)["val"].image_ids != split_pictures(source, 0.3, 0, 1)["val"].image_ids


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_that_are_none_are_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"test: expected a fraction of the pictures"):
        split_pictures(Source("folder", Path("captions.csv"), {UNSPLIT: some(5)}), 0.1, share, 0)


def test_splits_of_the_source_are_kept_and_one_is_for_training() -> None:
    splits = {"val": some(2), "train": some(3)}
    assert list(split_pictures(Source("folder", Path("captions.csv"), splits), 0.5, 0.5, 0)) == ["train", "val"]
    with pytest.raises(DataFileError, match=r"captions.csv: expected a split named train, got val"):
        split_pictures(Source("folder", Path("captions.csv"), {"val": some(2)}), 0, 0, 0)
