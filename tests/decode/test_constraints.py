"""Constraints and refusals that all decoders share."""

from __future__ import annotations

import math
from typing import Any

import click
import numpy as np
import pytest

from capgpu.cli.generation_options import generation_options
from capgpu.decode import GenerationConfig, beam_search, greedy, sample
from oracles.decoding import ids_of, repeats, without_null

END, UNK = 2, 3


@pytest.mark.parametrize("n", [1, 2, 3])
def test_no_n_gram_occurs_twice(backend, scene, n):
    model, _, features = scene(count=9, end_bias=-4.0)
    plain = [without_null(row) for row in ids_of(backend, greedy(model, backend.asarray(features), max_length=15))]
    assert any(repeats(words, n) for words in plain), "nothing to forbid"
    for decode in (greedy, lambda *args, **settings: sample(*args, seed=5, **settings)):
        rows = ids_of(backend, decode(model, backend.asarray(features), max_length=15, no_repeat_ngram=n))
        assert not any(repeats(without_null(row), n) for row in rows)


def test_captions_have_the_minimum_length(backend, scene):
    model, _, features = scene(count=9, end_bias=9.0)
    for decode in (greedy, lambda *args, **settings: sample(*args, seed=5, **settings)):
        rows = ids_of(backend, decode(model, backend.asarray(features), min_length=4, max_length=9))
        lengths = [len([word for word in without_null(row) if word != END]) for row in rows]
        assert min(lengths) == 4, lengths


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("decode", [greedy, sample, beam_search])
def test_a_model_with_non_finite_scores_raises(backend, scene, decode, value):
    model, params, features = scene(count=3, dtype="float32")
    bias = params["b_vocab"].copy()
    bias[5] = value
    model.params["b_vocab"] = backend.asarray(bias, dtype="float32")
    with np.errstate(invalid="ignore"), pytest.raises(FloatingPointError, match="3 of 3 pictures"):
        decode(model, backend.asarray(features))


DECODERS = {
    "greedy": greedy,
    "beam": beam_search,
    "sample": lambda *args, **settings: sample(*args, seed=5, **settings),
    "config": lambda model, features, **settings: GenerationConfig(temperature=1.0, **settings)(model, features),
}


@pytest.mark.parametrize("unknown", ["<UNK>", "<unk>"])  # the latter is a word of earlier versions' vocabularies
@pytest.mark.parametrize("decoder", DECODERS)
def test_captions_contain_unknown_words_only_if_allowed(backend, scene, decoder, unknown):
    model, _, features = scene(count=9)
    index = {"<UNK>": UNK, "<unk>": 5}[unknown]
    if unknown not in model.word_to_idx:
        model.word_to_idx = {unknown if i == index else word: i for word, i in model.word_to_idx.items()}
    model.params["b_vocab"][index] += 15.0
    for settings in ({}, {"suppress_unk": False}):
        rows = ids_of(backend, DECODERS[decoder](model, backend.asarray(features), **settings))
        assert (index in rows) is bool(settings)


def test_command_options_and_decoders_have_the_same_defaults():
    command = click.command()(generation_options(lambda config: None))
    with command.make_context("command", []) as context:
        assert GenerationConfig(**context.params) == GenerationConfig()


@pytest.mark.parametrize(
    ("beam", "error", "says"),
    [(0, ValueError, "at least 1, got 0"), (1.5, TypeError, "an integer, got 1.5"), ("5", TypeError, "an integer")],
)
def test_a_beam_that_is_no_count_is_named(beam: Any, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=f"beam: expected {says}"):
        GenerationConfig(beam=beam)
