"""How captions are laid out for teaching: what is read, what is asked, what counts."""

from __future__ import annotations

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies

import capgpu.pack_captions
from capgpu.kernels import host_kernels
from capgpu.pack_captions import PackedCaptions
from oracles.scenes import CAPTIONS, WORDS


@pytest.fixture(params=["numpy", "cpu"], autouse=True, scope="module")
def host(request):
    """The plain layout and the compiled one."""
    patch = pytest.MonkeyPatch()
    patch.setattr(capgpu.pack_captions, "host_kernels", lambda: kernels_of(request.param))
    yield
    patch.undo()


def kernels_of(name):
    with capgpu.use_backend(name):
        return host_kernels()


def pairs_of(plan):
    """List (caption, step, input word, target) of every row of a plan."""
    packing = plan.packing
    inputs = plan.words[plan.word_of_row]
    return sorted(zip(packing.sequence_of_row, packing.step_of_row, inputs, plan.targets, strict=True))


def wanted_pairs(captions, null):
    pairs = []
    for n, caption in enumerate(captions.tolist()):
        counting = [t for t, word in enumerate(caption[1:]) if word != null]
        for t in range(max(counting, default=-1) + 1):
            pairs.append((n, t, caption[t], -1 if caption[t + 1] == null else caption[t + 1]))
    return pairs


@pytest.mark.parametrize("captions", CAPTIONS.values(), ids=CAPTIONS)
def test_every_step_up_to_the_last_word_that_counts_is_there_once(captions):
    plan = PackedCaptions.plan(captions, 0, len(WORDS))
    assert pairs_of(plan) == wanted_pairs(captions, 0)
    assert plan.tokens == np.count_nonzero(captions[:, 1:])


@hypothesis.given(
    shape=strategies.tuples(strategies.integers(1, 5), strategies.integers(2, 7)),
    null=strategies.integers(0, 3),
    seed=strategies.integers(0),
)
def test_any_captions_are_laid_out_whole(shape, null, seed):
    captions = np.random.default_rng(seed).integers(0, 4, shape)
    plan = PackedCaptions.plan(captions, null, 4)
    assert pairs_of(plan) == wanted_pairs(captions, null)
    assert plan.words.tolist() == sorted({pair[2] for pair in wanted_pairs(captions, null)})
    assert plan.tokens == np.count_nonzero(captions[:, 1:] != null)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "uint16", "int32", "uint32", "uint64"])
def test_the_dtype_of_the_ids_does_not_matter(dtype):
    captions = CAPTIONS["NULL inside"]
    plan = PackedCaptions.plan(captions.astype(dtype), 0, len(WORDS))
    assert pairs_of(plan) == wanted_pairs(captions, 0)
    assert {array.dtype for array in (plan.words, plan.word_of_row, plan.targets)} == {np.dtype(np.int64)}


def test_captions_may_be_a_read_only_view():
    wide = np.repeat(CAPTIONS["padded"], 2, axis=1)[:, ::2]
    wide.flags.writeable = False
    assert pairs_of(PackedCaptions.plan(wide, 0, len(WORDS))) == wanted_pairs(CAPTIONS["padded"], 0)


@pytest.mark.parametrize(
    ("captions", "error", "words"),
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
def test_bad_captions_are_refused(captions, error, words):
    with pytest.raises(error, match=words):
        PackedCaptions.plan(captions, 0, len(WORDS))
