from __future__ import annotations

import numpy as np
import pytest

from bench.workloads import (
    END,
    NULL,
    PARAMETERS,
    SIZES,
    START,
    UNK,
    batch_sizes,
    caption_lengths,
    describe,
    make_captions,
    make_workload,
    parse_size,
)


def test_equal_arguments_give_equal_bits() -> None:
    first, second = make_workload(SIZES["S4"], "lstm", 3), make_workload(SIZES["S4"], "lstm", 3)
    assert np.array_equal(first.captions, second.captions)
    assert first.features.tobytes() == second.features.tobytes()
    assert all(first.params[name].tobytes() == second.params[name].tobytes() for name in PARAMETERS)


def test_another_seed_gives_other_captions() -> None:
    assert not np.array_equal(
        make_workload(SIZES["S4"], "rnn", 0).captions, make_workload(SIZES["S4"], "rnn", 1).captions
    )


def test_the_name_of_a_size_does_not_change_its_numbers() -> None:
    original, renamed = make_workload(SIZES["S4"], "rnn"), make_workload(parse_size("S4:T=10"), "rnn")
    assert np.array_equal(original.captions, renamed.captions)


@pytest.mark.parametrize("steps", [1, 2, 5, 16])
def test_captions_have_start_words_end_and_padding(steps: int) -> None:
    captions = make_captions(np.random.default_rng(0), 200, steps, 50)
    assert captions.shape == (200, steps + 1)
    for caption in captions.tolist():
        length = caption.index(END) + 1
        assert caption[0] == START
        assert all(UNK < word < 50 for word in caption[1 : length - 1])
        assert caption[length:] == [NULL] * (steps + 1 - length)


def test_lengths_stay_between_six_and_the_last_column() -> None:
    lengths = caption_lengths(np.random.default_rng(0), 5000, 12)
    assert lengths.min() == 6
    assert lengths.max() == 13
    assert abs(float(lengths.mean()) - 10.4) < 0.2


def test_words_follow_zipf() -> None:
    captions = make_captions(np.random.default_rng(0), 20000, 16, 104)
    counts = np.bincount(captions.ravel(), minlength=104)[UNK + 1 :]
    assert counts[0] / counts[9] == pytest.approx(10, rel=0.1)


def test_about_three_fifths_of_the_course_size_are_unmasked() -> None:
    assert 0.5 < describe(make_workload(SIZES["S1"], "lstm"))["unmasked_share"] < 0.65


def test_batch_sizes_never_rise_and_cover_the_unmasked_words() -> None:
    work = make_workload(SIZES["S1"], "rnn")
    sizes = batch_sizes(work.targets)
    assert sizes == sorted(sizes, reverse=True)
    assert sum(sizes) == describe(work)["tokens"]


def test_a_masked_word_before_the_last_one_counts_as_a_step() -> None:
    assert batch_sizes(np.array([[5, NULL, 5, NULL], [NULL] * 4])) == [1, 1, 1]


def test_a_modified_size_changes_only_the_given_extents() -> None:
    size = parse_size("S1:T=32,V=8000")
    assert (size.T, size.V, size.N, size.name) == (32, 8000, SIZES["S1"].N, "S1:T=32,V=8000")


@pytest.mark.parametrize("text", ["S9", "S1:Q=3", "S1:T=0", "S1:T=x", "S1:T"])
def test_an_unknown_size_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"S9|Q=3|T=0|T=x|'T'"):
        parse_size(text)
