"""Constraints and refusals that all decoders share."""

from __future__ import annotations

import math

import numpy as np
import pytest

from capgpu.decode import GenerationConfig, beam_search, greedy, sample
from oracles.decoding import ids_of, repeats, without_null

END, UNK = 2, 3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_run_of_words_comes_twice(backend, scene, n):
    model, _, features = scene(count=9, end_bias=-4.0)
    plain = [without_null(row) for row in ids_of(backend, greedy(model, backend.asarray(features), max_length=15))]
    assert any(repeats(words, n) for words in plain), "nothing to forbid"
    for decode in (greedy, lambda *args, **settings: sample(*args, seed=5, **settings)):
        rows = ids_of(backend, decode(model, backend.asarray(features), max_length=15, no_repeat_ngram=n))
        assert not any(repeats(without_null(row), n) for row in rows)


def test_captions_have_their_least_length(backend, scene):
    model, _, features = scene(count=9, end_bias=9.0)
    for decode in (greedy, lambda *args, **settings: sample(*args, seed=5, **settings)):
        rows = ids_of(backend, decode(model, backend.asarray(features), min_length=4, max_length=9))
        lengths = [len([word for word in without_null(row) if word != END]) for row in rows]
        assert min(lengths) == 4, lengths


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("decode", [greedy, sample, beam_search])
def test_a_model_that_is_not_finite_writes_nothing(backend, scene, decode, value):
    model, params, features = scene(count=3, dtype="float32")
    bias = params["b_vocab"].copy()
    bias[5] = value
    model.params["b_vocab"] = backend.asarray(bias, dtype="float32")
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="3 of 3 pictures"):
        decode(model, backend.asarray(features))


@pytest.mark.parametrize("settings", [{}, {"beam": 3}, {"temperature": 1.0}])
def test_captions_contain_unknown_words_only_if_allowed(backend, scene, settings):
    model, _, features = scene(count=9)
    model.params["b_vocab"][UNK] += 5.0
    for suppressed in (True, False):
        config = GenerationConfig(**settings, **({} if suppressed else {"suppress_unk": False}))
        rows = ids_of(backend, config(model, backend.asarray(features)))
        assert (UNK in rows) is not suppressed
