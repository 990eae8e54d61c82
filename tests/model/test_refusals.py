"""Bad arguments: refused before any work, by a message that names the argument and what would mend it."""

from __future__ import annotations

import numpy as np
import pytest

import capgpu
from capgpu import CaptioningRNN
from oracles.scenes import CAPTIONS, SIZES, WORDS, features_for, parameters
from oracles.snapshots import frozen

GOOD = CAPTIONS["padded"]
FEATURES = features_for(GOOD, "float32")


def with_value(value, *place):
    changed = FEATURES.copy()
    changed[place] = value
    return changed


REFUSED = {
    "features rank": (FEATURES[0], GOOD, r"features: expected shape \(N, 3\) .*got \(3,\)"),
    "features width": (np.zeros((3, 4), np.float32), GOOD, r"features: expected shape \(N, 3\) .*got \(3, 4\)"),
    "no features": (FEATURES[:0], GOOD[:0], r"features: expected shape \(N, 3\) with N >= 1, got \(0, 3\)"),
    "one NaN": (
        with_value(np.nan, 1, 2),
        GOOD,
        r"features: expected finite values, got 1 NaN or infinite value, .*\(1, 2\)",
    ),
    "infinities": (with_value(np.inf, 2), GOOD, r"features: expected finite values, got 3 NaN .* first at \(2, 0\)"),
    "captions rank": (FEATURES, GOOD[0], r"captions: expected shape \(N, T \+ 1\).* got \(5,\)"),
    "no captions": (FEATURES, GOOD[:0], r"captions: expected .*N >= 1.* got \(0, 5\)"),
    "one column": (FEATURES, GOOD[:, :1], r"captions: expected .*T >= 1.* got \(3, 1\)"),
    "counts": (FEATURES, GOOD[:2], r"captions: expected one row for each of the 3 .*got 2\. Repeat a picture's"),
    "id too high": (
        FEATURES,
        np.where(GOOD == 6, 7, GOOD),
        r"captions\[1, 1\]: expected an id in 0\.\.6, got 7",
    ),
    "id below zero": (FEATURES, np.where(GOOD == 6, -1, GOOD), r"captions\[1, 1\]: expected an id in 0\.\.6, got -1"),
}

REFUSED_TYPES = {
    "float captions": (
        FEATURES,
        GOOD.astype(float),
        r"captions: expected integer .* float64.*captions\.astype\(numpy\.int64\)",
    ),
    "bool captions": (FEATURES, GOOD > 0, "captions: expected integer word ids, got dtype bool"),
    "listed captions": (FEATURES, GOOD.tolist(), r"captions: expected an array of integers, got a list.*asarray"),
    "no captions": (FEATURES, None, "captions: expected .*got a NoneType"),
    "listed features": (
        FEATURES.tolist(),
        GOOD,
        r"features: expected an array, got a builtins\.list.*capgpu\.asarray\(features\)",
    ),
    "no features": (None, GOOD, "features: expected an array, got None"),
    "bool features": (FEATURES > 0, GOOD, r"features: expected real numbers, got dtype .*bool"),
    "complex features": (FEATURES + 1j, GOOD, r"features: expected real numbers, got dtype .*complex64"),
}


def brought(backend, value):
    return backend.asarray(value) if isinstance(value, np.ndarray) else value


def check(backend, error, features, captions, message):
    model = backend.model(WORDS, **SIZES, cell_type="lstm", seed=0)
    snapshot = frozen(model.params)
    with pytest.raises(error, match=message):
        model.loss(brought(backend, features), captions)
    with pytest.raises(error, match=message):
        model.nll(brought(backend, features), captions)
    assert frozen(model.params) == snapshot


@pytest.mark.parametrize(("features", "captions", "message"), REFUSED.values(), ids=REFUSED)
def test_wrong_values_and_shapes_are_refused(backend, features, captions, message):
    check(backend, ValueError, features, captions, message)


@pytest.mark.parametrize(("features", "captions", "message"), REFUSED_TYPES.values(), ids=REFUSED_TYPES)
def test_wrong_types_are_refused(backend, features, captions, message):
    check(backend, TypeError, features, captions, message)


@pytest.mark.parametrize("case", ["features rank", "features width", "no features", "one NaN", "infinities"])
def test_wrong_features_to_sample_from_are_refused(backend, case):
    features, _, message = REFUSED[case]
    model = backend.model(WORDS, **SIZES, cell_type="rnn", seed=0)
    with pytest.raises(ValueError, match=message):
        model.sample(backend.asarray(features))


CONSTRUCTION = {
    "cell": (
        {"cell_type": "gated"},
        ValueError,
        "cell_type: expected one of 'rnn', 'lstm', 'gru', 'attention', got 'gated'",
    ),
    "cells": ({"cell_type": ["gru"]}, ValueError, r"cell_type: expected one of .*got \['gru'\]"),
    "dropout in words": ({"layer_dropout": "low"}, TypeError, "layer_dropout: expected a number, got 'low'"),
    "dropout between one layer": (
        {"layer_dropout": 0.2},
        ValueError,
        r"layer_dropout: expected 0 with one layer, got 0\.2",
    ),
    "width of a flag": ({"hidden_dim": True}, ValueError, "hidden_dim: expected an integer .*got True"),
    "no input": ({"input_dim": 0}, ValueError, "input_dim: expected an integer of at least 1, got 0"),
    "too large": ({"hidden_dim": 10**18}, ValueError, "hidden_dim: expected at most 268,435,456, got 1000000000"),
    "negative": ({"hidden_dim": -5}, ValueError, "hidden_dim: expected .*got -5"),
    "fraction": ({"wordvec_dim": 2.5}, ValueError, r"wordvec_dim: expected an integer .*got 2\.5"),
    "float": ({"wordvec_dim": 4.0}, ValueError, r"wordvec_dim: expected an integer .*got 4\.0"),
    "text": ({"hidden_dim": "8"}, ValueError, r"hidden_dim: expected an integer .*got '8'"),
    "certain dropout": (
        {"feature_dropout": 1.0},
        ValueError,
        r"feature_dropout: expected a rate in \[0, 1\), got 1\.0",
    ),
    "negative dropout": ({"output_dropout": -0.1}, ValueError, r"output_dropout: expected .*got -0\.1"),
    "unknown dropout": ({"output_dropout": float("nan")}, ValueError, "output_dropout: expected .*got nan"),
    "no NULL": ({"word_to_idx": {"cat": 0}}, ValueError, "word_to_idx: expected an entry <NULL>.*Add it"),
    "whole dtype": ({"dtype": np.int32}, TypeError, "dtype: expected a floating dtype .* got int32"),
}


@pytest.mark.parametrize(("changes", "error", "message"), CONSTRUCTION.values(), ids=CONSTRUCTION)
def test_wrong_constructor_arguments_are_refused(changes, error, message):
    with pytest.raises(error, match=message):
        CaptioningRNN(**{"word_to_idx": WORDS, **SIZES, **changes})


@pytest.mark.parametrize("name", list(parameters("lstm")))
def test_a_replaced_parameter_of_another_shape_is_refused(backend, name):
    model = backend.model(WORDS, **SIZES, cell_type="lstm", seed=0)
    features, good = backend.asarray(FEATURES), model.params[name]

    def refused(error, message):
        for call in (lambda: model.loss(features, GOOD), lambda: model.sample(features)):
            with pytest.raises(error, match=message):
                call()

    model.params[name] = backend.asarray(np.zeros((*good.shape, 1), np.float32))
    refused(ValueError, rf"params\['{name}'\]: expected shape .*, got \(.*, 1\)")
    model.params[name] = backend.asarray(np.zeros(good.shape, np.float64))
    refused(TypeError, rf"params\['{name}'\]: expected dtype float32, the model's, got .*float64.*astype\(float32\)")
    model.params[name] = backend.to_numpy(good).tolist()
    refused(TypeError, rf"params\['{name}'\]: expected an array, got a builtins\.list")
    model.params[name] = None
    refused(TypeError, rf"params\['{name}'\]: expected an array, got None")
    del model.params[name]
    refused(ValueError, rf"params\['{name}'\]: expected an array of shape")
    model.params[name] = good
    assert np.isfinite(float(model.loss(features, GOOD)[0]))


@pytest.mark.parametrize("name", list(parameters("lstm")))
def test_a_parameter_on_another_device_is_refused(device, name):
    model = CaptioningRNN(WORDS, **SIZES, cell_type="lstm", seed=0)
    model.params[name] = capgpu.to_numpy(model.params[name])
    with pytest.raises(
        TypeError, match=rf"params\['{name}'\] is a NumPy array \(host\)|and params\['{name}'\] is a NumPy"
    ):
        model.loss(capgpu.asarray(FEATURES), GOOD)


def test_features_on_another_device_are_refused(device):
    model = CaptioningRNN(WORDS, **SIZES, cell_type="lstm", seed=0)
    message = r"features is a NumPy array \(host\) and params is a CuPy array.*capgpu\.asarray\(features\)"
    for call in (
        lambda: model.loss(FEATURES, GOOD),
        lambda: model.nll(FEATURES, GOOD),
        lambda: model.sample(FEATURES),
    ):
        with pytest.raises(TypeError, match=message):
            call()
