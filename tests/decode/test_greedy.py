"""Greedy decoding under constraints."""

from __future__ import annotations

import pytest

from capgpu.decode import greedy
from oracles.decoding import Writer, ids_of, repeats, without_null

END = 2


def test_greedy_decoding_equals_the_models_sample(backend, scene):
    model, _, features = scene(count=9)
    device_features = backend.asarray(features)
    sampled = backend.to_numpy(model.sample(device_features, 12, stop_at_end=True))
    decoded = greedy(model, device_features, max_length=12, suppress_unk=False)
    assert ids_of(backend, decoded).tolist() == sampled.tolist()


@pytest.mark.parametrize("length", [1, 3])
def test_greedy_decoding_chooses_the_best_allowed_word(backend, scene, length):
    model, params, features = scene(count=9)
    settings = {"max_length": 9, "min_length": length, "no_repeat_ngram": 2, "suppress_unk": True}
    decoded = greedy(model, backend.asarray(features), **settings)
    for feature, row, chances in zip(
        features, ids_of(backend, decoded), backend.to_numpy(decoded.log_probs)[:, 0], strict=True
    ):
        words, writer = without_null(row), Writer(params, feature)
        for t, word in enumerate(words):
            log_probs = writer.next_log_probs(words[:t])
            allowed = [
                other
                for other in (4, 5, 6, *([END] if t >= length else []))
                if other == END or not repeats((*words[:t], other), 2)
            ]
            assert word == max(allowed, key=lambda other: log_probs[other])
            assert chances[t] == pytest.approx(log_probs[word], abs=1e-10)
