"""The layout of captions for the device, as it is and padded to one of few shapes."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels.cuda.caption_batch import lay_out


def draw(seed):
    random = np.random.default_rng(seed)
    count, width, vocabulary = random.integers(1, 40), random.integers(1, 13), int(random.integers(3, 90))
    captions = random.integers(0, vocabulary, (count, width + 1))
    captions[np.arange(width + 1) > random.integers(0, width + 1, (count, 1))] = 0
    captions[0, :2] = 1  # one word at least
    return captions, vocabulary


def words_and_targets(layout):
    """Return input word and target by step and rank, of rows that have a target."""
    pairs, start = {}, 0
    for step, count in enumerate(layout.batch_sizes):
        for rank in range(count):
            row = start + rank
            if layout.targets[row] >= 0:
                pairs[step, rank] = int(layout.words[layout.word_of_row[row]]), int(layout.targets[row])
        start += count
    return pairs


@pytest.mark.parametrize("seed", range(40))
def test_a_padded_layout_has_the_same_words_and_targets(seed):
    captions, vocabulary = draw(seed)
    plain, padded = lay_out(captions, 0, vocabulary), lay_out(captions, 0, vocabulary, padded=True)
    assert words_and_targets(padded) == words_and_targets(plain)
    np.testing.assert_array_equal(padded.order, plain.order)
    assert plain.row_numbers.size == 0
    assert padded.caption_rows == plain.caption_rows == plain.targets.size
    # the rows of the captions, in their order, are where their numbers say
    own = padded.row_numbers >= 0
    np.testing.assert_array_equal(padded.row_numbers[own], np.arange(plain.targets.size))
    np.testing.assert_array_equal(padded.targets[own], plain.targets)
    assert (padded.targets[~own] == -1).all()


@pytest.mark.parametrize("seed", range(40))
def test_a_padded_layout_satisfies_the_kernels_requirements(seed):
    captions, vocabulary = draw(seed)
    layout = lay_out(captions, 0, vocabulary, padded=True)
    count, steps, rows, words = layout.shape
    assert layout.batch_sizes[0] == count == captions.shape[0]
    assert (np.diff(layout.batch_sizes) <= 0).all()
    assert layout.batch_sizes.sum() == rows == layout.word_of_row.size
    assert steps <= captions.shape[1] - 1
    assert (np.diff(layout.words) > 0).all()
    assert layout.words[0] >= 0
    assert layout.words[-1] < vocabulary
    # rows of each word, in their order
    sizes = np.diff(layout.starts)
    assert layout.starts.size == words + 1
    np.testing.assert_array_equal(np.repeat(np.arange(words), sizes), layout.word_of_row[layout.by_word])
    assert all((np.diff(part) > 0).all() for part in np.split(layout.by_word, layout.starts[1:-1]))
    assert layout.numbers().dtype == np.int32


@pytest.mark.parametrize("seed", range(40))
def test_compiled_code_and_numpy_make_the_same_layout(seed):
    captions, vocabulary = draw(seed)
    layouts = []
    for backend in ("numpy", "cpu"):
        with capgpu.use_backend(backend):
            layouts.append(lay_out(captions, 0, vocabulary, padded=True))
    for name, by_numpy, compiled in zip(layouts[0]._fields, *layouts, strict=True):
        np.testing.assert_array_equal(compiled, by_numpy, err_msg=name)


def test_padding_gives_few_shapes_with_few_added_rows():
    shapes, added = set(), []
    for seed in range(200):
        random = np.random.default_rng(seed)
        captions = random.integers(1, 1004, (64, 17))
        captions[np.arange(17) > random.integers(6, 17, (64, 1))] = 0
        plain, padded = (lay_out(captions, 0, 1004, padded=padded) for padded in (False, True))
        shapes.add(padded.shape)
        added.append(padded.shape[2] / plain.shape[2] - 1)
    assert len(shapes) <= 16
    assert max(added) < 1 / 8
    assert np.mean(added) < 1 / 16


def test_words_without_rows_are_not_padded_and_invalid_ids_are_refused():
    empty = lay_out(np.zeros((3, 5), np.int64), 0, 9, padded=True)
    assert empty.targets.size == 0
    with pytest.raises(ValueError, match=r"captions\[0, 0\]: expected an id in 0\.\.8, got 9"):
        lay_out(np.full((3, 5), 9), 0, 9, padded=True)
