"""How captions are laid out for teaching: what is read, what is asked, what counts."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

import capgpu
from capgpu.kernels import host_kernels
from capgpu.sequence import Packing
from capgpu.validation import check_captions
from oracles.scenes import CAPTIONS, WORDS


@pytest.fixture(params=["numpy", "cpu"], scope="module")
def packed(request):
    """The plain layout and the compiled one: (captions, id of NULL, size of the vocabulary) -> batch on the host."""
    with capgpu.use_backend(request.param):
        kernels = host_kernels()

    def pack(captions, null, vocabulary_size):
        check_captions(captions)
        return kernels.caption_batch(captions, null, vocabulary_size, np.zeros(1))

    return pack


def pairs_of(batch):
    """List (caption, step, input word, target) of every row of a batch."""
    packing = Packing(batch.order, batch.batch_sizes)
    inputs = batch.words[batch.word_of_row]
    return sorted(zip(packing.sequence_of_row, packing.step_of_row, inputs, batch.targets, strict=True))


def wanted_pairs(captions, null):
    pairs = []
    for n, caption in enumerate(captions.tolist()):
        counting = [t for t, word in enumerate(caption[1:]) if word != null]
        for t in range(max(counting, default=-1) + 1):
            pairs.append((n, t, caption[t], -1 if caption[t + 1] == null else caption[t + 1]))
    return pairs


@pytest.mark.parametrize("captions", CAPTIONS.values(), ids=CAPTIONS)
def test_every_step_up_to_the_last_unmasked_word_occurs_once(packed, captions):
    batch = packed(captions, 0, len(WORDS))
    assert pairs_of(batch) == wanted_pairs(captions, 0)
    assert np.count_nonzero(batch.targets >= 0) == np.count_nonzero(captions[:, 1:])


@hypothesis.given(
    shape=strategies.tuples(strategies.integers(1, 5), strategies.integers(2, 7)),
    null=strategies.integers(0, 3),
    seed=strategies.integers(0),
)
def test_every_layout_contains_all_words_of_the_captions(packed, shape, null, seed):
    captions = np.random.default_rng(seed).integers(0, 4, shape)
    batch = packed(captions, null, 4)
    assert pairs_of(batch) == wanted_pairs(captions, null)
    assert batch.words.tolist() == sorted({pair[2] for pair in wanted_pairs(captions, null)})
    assert np.count_nonzero(batch.targets >= 0) == np.count_nonzero(captions[:, 1:] != null)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int32", "uint32", "uint64"])
def test_the_dtype_of_the_ids_does_not_matter(packed, dtype):
    captions = CAPTIONS["NULL inside"]
    batch = packed(captions.astype(dtype), 0, len(WORDS))
    assert pairs_of(batch) == wanted_pairs(captions, 0)
    assert {array.dtype for array in (batch.words, batch.word_of_row, batch.targets)} == {np.dtype(np.int64)}


def test_captions_may_be_a_read_only_view(packed):
    wide = np.repeat(CAPTIONS["padded"], 2, axis=1)[:, ::2]
    wide.flags.writeable = False
    assert pairs_of(packed(wide, 0, len(WORDS))) == wanted_pairs(CAPTIONS["padded"], 0)


@pytest.mark.parametrize(
    ("captions", "error", "message"),
    [
        (
            np.zeros((2, 3)),
            TypeError,
            r"captions: expected integer word ids, got dtype float64.*captions\.astype\(numpy\.int64\)",
        ),
        (np.zeros((2, 3), bool), TypeError, "captions: expected integer word ids, got dtype bool"),
        (np.zeros(3, int), ValueError, r"captions: expected shape \(N, T \+ 1\).*got \(3,\)"),
        (np.zeros((0, 3), int), ValueError, r"captions: expected .*N >= 1.* got \(0, 3\)"),
        (np.zeros((3, 1), int), ValueError, r"captions: expected .*T >= 1.* got \(3, 1\)"),
        (np.array([[0, 1], [9, 1]]), ValueError, r"captions\[1, 0\]: expected an id in 0\.\.6, got 9"),
        (np.array([[0, 1], [1, -2]]), ValueError, r"captions\[1, 1\]: expected an id in 0\.\.6, got -2"),
        (
            np.array([[0, 2**63]], dtype=np.uint64),
            ValueError,
            rf"captions\[0, 1\]: expected an id in 0\.\.6, got {2**63}",
        ),
    ],
)
def test_bad_captions_are_refused(packed, captions, error, message):
    with pytest.raises(error, match=message):
        packed(captions, 0, len(WORDS))
