"""Greedy captions."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu.kernels.reference import KERNELS
from oracles import captioner
from oracles.scenes import CELLS, SIZES, WORDS, parameters
from oracles.snapshots import frozen


def drawn(count, dtype="float64"):
    return np.random.default_rng(3).uniform(-2, 2, (count, SIZES["input_dim"])).astype(dtype)


def model_of(backend, cell, dtype="float64", **changes):
    params = parameters(cell, dtype=dtype, seed=7)
    # a wider spread: captions that differ from row to row and do not settle on one word
    params = {**{name: (3 * value).astype(dtype) for name, value in params.items()}, **changes}
    return backend.model(WORDS, **SIZES, cell_type=cell, dtype=dtype, params=params), params


@pytest.mark.parametrize(("count", "steps"), [(1, 1), (1, 4), (3, 2), (2, 9), (9, 5), (33, 30)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("cell", CELLS)
def test_captions_equal_those_of_a_plain_loop(backend, cell, dtype, count, steps):
    model, params = model_of(backend, cell, dtype)
    features = drawn(count, dtype)
    words = backend.to_numpy(model.sample(backend.asarray(features), steps))
    exact = {name: value.astype(np.float64) for name, value in params.items()}
    assert words.dtype == np.int32
    assert words.tolist() == captioner.sample(exact, features.astype(np.float64), WORDS["<START>"], steps).tolist()


@pytest.mark.parametrize("cell", CELLS)
def test_stopping_at_end_fills_with_null(backend, cell):
    rarer_end = np.zeros(len(WORDS))
    rarer_end[WORDS["<END>"]] = -2
    model, params = model_of(backend, cell, b_vocab=rarer_end)
    features = drawn(12)
    going_on = backend.to_numpy(model.sample(backend.asarray(features), 20))
    stopped = backend.to_numpy(model.sample(backend.asarray(features), 20, stop_at_end=True))
    expected = captioner.sample(params, features, WORDS["<START>"], 20, end=WORDS["<END>"])
    assert stopped.tolist() == expected.tolist()
    ended = (stopped == WORDS["<END>"]).any(axis=1)
    assert ended.any()
    assert not ended.all()
    for row, whole in zip(stopped, going_on, strict=True):
        length = row.tolist().index(WORDS["<END>"]) + 1 if WORDS["<END>"] in row else 20
        assert row[:length].tolist() == whole[:length].tolist()
        assert not row[length:].any()


@pytest.mark.parametrize("cell", CELLS)
def test_by_default_sampling_continues_after_end(backend, cell):
    always_end = np.zeros(len(WORDS))
    always_end[WORDS["<END>"]] = 1e3
    model, _ = model_of(backend, cell, b_vocab=always_end)
    assert backend.to_numpy(model.sample(backend.asarray(drawn(3)), 4)).tolist() == [[2, 2, 2, 2]] * 3
    stopped = model.sample(backend.asarray(drawn(3)), 4, stop_at_end=True)
    assert backend.to_numpy(stopped).tolist() == [[2, 0, 0, 0]] * 3


def test_no_step_is_made_once_all_captions_have_ended(monkeypatch):
    steps = []

    def counting(*arguments, **options):
        steps.append(1)
        return KERNELS.decode_step(*arguments, **options)

    monkeypatch.setattr("capgpu.kernels.reference.greedy.decode_step", counting)
    capgpu.set_backend("numpy")
    model = capgpu.CaptioningRNN(WORDS, **SIZES, seed=0)
    model.params["b_vocab"][WORDS["<END>"]] = 1e3
    model.sample(drawn(3, "float32"), 30, stop_at_end=True)
    assert len(steps) == 1


@pytest.mark.parametrize("cell", CELLS)
def test_captions_have_thirty_words_by_default(backend, cell):
    model, _ = model_of(backend, cell)
    features = backend.asarray(drawn(2))
    assert model.sample(features).shape == (2, 30)
    assert frozen(model.sample(features)) == frozen(model.sample(features, max_length=30))


@pytest.mark.parametrize("cell", CELLS)
def test_a_caption_does_not_depend_on_its_batch(backend, cell):
    model, _ = model_of(backend, cell)
    features = drawn(9)
    together = backend.to_numpy(model.sample(backend.asarray(features), 6)).tolist()
    alone = [backend.to_numpy(model.sample(backend.asarray(features[n : n + 1]), 6)).tolist()[0] for n in range(9)]
    assert together == alone


def test_of_equal_scores_the_smallest_id_is_chosen(backend):
    scores = np.zeros(len(WORDS))
    scores[[3, 5]] = 1
    model, _ = model_of(backend, "lstm", b_vocab=scores, W_vocab=np.zeros((5, len(WORDS))))
    assert backend.to_numpy(model.sample(backend.asarray(drawn(2)), 3)).tolist() == [[3, 3, 3]] * 2


@pytest.mark.parametrize(
    ("words", "stop", "missing"),
    [
        ({"<NULL>": 0, "cat": 1}, False, "<START>"),
        ({"<NULL>": 0, "<START>": 1}, True, "<END>"),
        ({"<NULL>": 0, "cat": 1, "<START>": 7}, False, "<START>"),
    ],
)
def test_a_vocabulary_without_the_required_word_is_refused(backend, words, stop, missing):
    model = backend.model(words, **SIZES)
    with pytest.raises(ValueError, match=f"word_to_idx: expected {missing} with an id below"):
        model.sample(backend.asarray(drawn(1, "float32")), stop_at_end=stop)


def test_without_end_in_the_vocabulary_captions_have_full_length(backend):
    model = backend.model({"<NULL>": 0, "<START>": 1}, **SIZES)
    assert model.sample(backend.asarray(drawn(2, "float32")), 3).shape == (2, 3)


@pytest.mark.parametrize("length", [0, -1])
def test_a_length_below_one_is_refused(length):
    model = capgpu.CaptioningRNN(WORDS, **SIZES)
    with pytest.raises(ValueError, match=f"max_length: expected at least 1, got {length}"):
        model.sample(capgpu.asarray(drawn(1, "float32")), length)
