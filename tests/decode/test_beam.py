"""Beam search: between greedy decoding and exhaustive search, both of which it contains."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import capgpu
from capgpu.decode import beam_search, greedy
from oracles.decoding import Writer, captions, plain_beam, ranked
from oracles.scenes import CELLS, SIZES, WORDS, parameters
from oracles.snapshots import frozen

NULL, START, END, UNK = 0, 1, 2, 3
FREE = [3, 4, 5, 6]


def written(row):
    return tuple(word for word in row.tolist() if word != NULL)


def results(backend, decoded):
    return [backend.to_numpy(part) for part in decoded if part is not None]


def test_a_beam_of_one_equals_greedy_decoding(backend, scene):
    model, _, features = scene(count=7)
    device_features = backend.asarray(features)
    for settings in ({}, {"min_length": 3}, {"no_repeat_ngram": 2}, {"suppress_unk": False, "max_length": 5}):
        beam, expected = beam_search(model, device_features, 1, **settings), greedy(model, device_features, **settings)
        assert backend.to_numpy(beam.ids).tolist() == backend.to_numpy(expected.ids).tolist(), settings
        assert np.allclose(backend.to_numpy(beam.scores), backend.to_numpy(expected.scores), atol=1e-12)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"length_penalty": 0.7},
        {"length_penalty": 3.0},
        {"min_length": 2},
        {"no_repeat_ngram": 1, "length_penalty": 1.0},
        {"suppress_unk": False},
    ],
    ids=str,
)
def test_a_wide_enough_beam_equals_exhaustive_search(backend, scene, settings):
    model, params, features = scene(count=3)
    length, n_best = 4, 9
    width = len(FREE) ** (length - 1) * len(WORDS)
    decoded = beam_search(model, backend.asarray(features), width, n_best=n_best, max_length=length, **settings)
    ids, log_probs, scores = results(backend, decoded)
    rules = {key: settings[key] for key in ("min_length", "no_repeat_ngram") if key in settings}
    choice = [word for word in FREE if word != UNK or settings.get("suppress_unk") is False]
    for n, feature in enumerate(features):
        writer = Writer(params, feature)
        best = ranked(writer, captions(choice, length, **rules), settings.get("length_penalty", 0.0))[:n_best]
        assert [written(row) for row in ids[n]] == [words for _, words in best]
        assert np.allclose(scores[n], [score for score, _ in best], atol=1e-10)
        for row, chances in zip(ids[n], log_probs[n], strict=True):
            words = written(row)
            expected = [writer.next_log_probs(words[:t])[word] for t, word in enumerate(words)]
            assert np.allclose(chances, [*expected, *[0.0] * (length - len(words))], atol=1e-10)


@pytest.mark.parametrize("name", ["numpy", "cpu"])
@given(data=st.data())
def test_a_beam_equals_a_search_with_one_hypothesis_at_a_time(name, data):
    """Under any rules together, with the special words anywhere in a small vocabulary."""
    draw = data.draw
    names = ["<NULL>", "<START>", "<END>", "<UNK>", *(f"w{i}" for i in range(draw(st.integers(1, 3))))]
    words = {word: i for i, word in enumerate(draw(st.permutations(names)))}
    width, length = draw(st.sampled_from([1, 2, 3, 6, 30])), draw(st.integers(1, 5))
    search = {
        "n_best": draw(st.integers(1, min(width, 5))),
        "length_penalty": draw(st.sampled_from([0.0, 0.7, 3.0])),
        "early_stop": draw(st.booleans()),
    }
    rules = {
        "min_length": draw(st.integers(0, min(length, len(names) - 4))),
        "no_repeat_ngram": draw(st.integers(0, 3)),
    }
    suppress = draw(st.booleans())
    cell = draw(st.sampled_from(CELLS))
    params = parameters(cell, words=len(words), seed=draw(st.integers(0, 999)))
    params = {key: draw(st.sampled_from([1.0, 3.0])) * value for key, value in params.items()}
    features = np.random.default_rng(3).uniform(-2, 2, (3, SIZES["input_dim"]))
    with capgpu.use_backend(name):
        model = capgpu.CaptioningRNN(words, **SIZES, cell_type=cell, dtype="float64")
        model.params.update(params)
        settings = {"max_length": length, "suppress_unk": suppress, **search, **rules}
        ids, _, scores, _ = beam_search(model, features, width, **settings)
    never = {words[word] for word in ("<NULL>", "<START>", "<END>", *(["<UNK>"] if suppress else []))}
    choice = [i for i in range(len(words)) if i not in never]
    for n, feature in enumerate(features):
        writer = Writer(params, feature, words["<START>"])
        expected = plain_beam(writer, choice, width, length, end=words["<END>"], **search, **rules)
        is_present = scores[n] > -np.inf
        null = words["<NULL>"]
        assert [tuple(row[row != null].tolist()) for row in ids[n][is_present]] == [
            hypothesis for _, hypothesis in expected
        ]
        assert np.allclose(scores[n][is_present], [score for score, _ in expected], atol=1e-10)


def test_log_probabilities_equal_those_of_teacher_forcing(backend, scene):
    model, _, features = scene(count=9)
    ids, log_probs, scores = results(backend, beam_search(model, backend.asarray(features), 3, n_best=3, max_length=8))
    for k in range(3):
        forced = np.concatenate([np.full((9, 1), START), ids[:, k]], axis=1)
        for n in range(9):
            total, tokens = model.nll(backend.asarray(features[n : n + 1]), forced[n : n + 1])
            assert -float(total) == pytest.approx(log_probs[n, k].sum(), abs=1e-10)
            assert tokens == np.count_nonzero(ids[n, k])
        assert np.allclose(log_probs[:, k].sum(axis=1), scores[:, k])


def test_captions_are_sorted_and_distinct(backend, scene):
    model, _, features = scene(count=9, end_bias=0.0)
    for width, penalty in ((5, 0.0), (7, 1.0)):
        decoded = beam_search(model, backend.asarray(features), width, n_best=width, length_penalty=penalty)
        ids, _, scores = results(backend, decoded)
        assert (np.diff(scores, axis=1) <= 0).all()
        for rows in ids:
            assert len({tuple(row) for row in rows.tolist()}) == width
            for row in rows.tolist():
                assert START not in row
                length = row.index(END) + 1 if END in row else len(row)
                assert NULL not in row[:length]
                assert not any(row[length:])


def test_a_wider_beam_never_finds_a_worse_caption(backend, scene):
    model, _, features = scene(count=12)
    scores = [
        results(backend, beam_search(model, backend.asarray(features), width, max_length=6))[2].mean()
        for width in (1, 3, 60)
    ]
    assert scores[0] < scores[2]
    assert scores[1] <= scores[2] + 1e-12


def test_early_stop_returns_the_captions_that_have_ended(backend, scene):
    model, params, features = scene(count=6, end_bias=0.0)
    device_features = backend.asarray(features)
    ids, _, scores = results(
        backend, beam_search(model, device_features, 4, length_penalty=5.0, early_stop=True, max_length=9)
    )
    _, _, best = results(backend, beam_search(model, device_features, 4, length_penalty=5.0, max_length=9))
    assert (scores <= best + 1e-12).all()
    assert (scores < best).any(), "nothing was stopped early"
    for n, feature in enumerate(features):
        words = written(ids[n, 0])
        expected = Writer(params, feature).log_prob(words) / ((5 + len(words)) / 6) ** 5.0
        assert scores[n, 0] == pytest.approx(expected, abs=1e-10)


def test_absent_captions_have_an_infinite_score_and_zero_words(backend, scene):
    model, _, features = scene(count=2)
    ids, log_probs, scores = results(
        backend, beam_search(model, backend.asarray(features), 20, n_best=20, max_length=1)
    )
    is_present = np.isfinite(scores)
    assert is_present.sum(axis=1).tolist() == [len(FREE)] * 2  # END, and all words but UNK
    assert not ids[~is_present].any()
    assert not log_probs[~is_present].any()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_results_keep_their_dtypes_and_arguments_their_values(backend, scene, dtype):
    model, _, features = scene(dtype=dtype)
    device_features = backend.asarray(features)
    snapshot = frozen([device_features, *model.params.values()])
    decoded = beam_search(model, device_features, 3, n_best=2, no_repeat_ngram=2)
    assert frozen([device_features, *model.params.values()]) == snapshot
    ids, log_probs, scores = results(backend, decoded)
    assert (ids.dtype, log_probs.dtype, scores.dtype) == (np.int32, dtype, dtype)
    assert ids.shape == log_probs.shape == (4, 2, 30)
    assert scores.shape == (4, 2)
    repeated = beam_search(model, device_features, 3, n_best=2, no_repeat_ngram=2)
    assert frozen(results(backend, repeated)) == frozen([ids, log_probs, scores])


def test_a_batch_gives_the_captions_of_its_pictures_alone(backend, scene):
    model, _, features = scene(count=7)
    together = results(backend, beam_search(model, backend.asarray(features), 4, n_best=2))
    for n in range(7):
        alone = results(backend, beam_search(model, backend.asarray(features[n : n + 1]), 4, n_best=2))
        assert together[0][n].tolist() == alone[0][0].tolist()
        assert np.allclose(together[2][n], alone[2][0], atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"width": 0}, "width"),
        ({"width": 3, "n_best": 4}, "n_best: expected at most width = 3, got 4"),
        ({"n_best": 0}, "n_best"),
        ({"length_penalty": -1.0}, "length_penalty"),
        ({"length_penalty": float("nan")}, "length_penalty"),
        ({"length_penalty": 1e300}, "length_penalty: expected .* got 1e"),
        ({"max_length": 0}, "max_length"),
        ({"min_length": 9, "max_length": 8}, "min_length: expected at most max_length = 8, got 9"),
        ({"no_repeat_ngram": 1, "min_length": 5}, "Lower min_length"),
    ],
    ids=str,
)
def test_invalid_settings_are_refused(settings, message):
    with capgpu.use_backend("numpy"):
        model = capgpu.CaptioningRNN(WORDS, **SIZES)
        with pytest.raises(ValueError, match=message):
            beam_search(model, np.zeros((2, SIZES["input_dim"]), np.float32), **settings)


@pytest.mark.parametrize("settings", [{"width": 2.5}, {"length_penalty": "1"}, {"length_penalty": True}], ids=str)
def test_settings_of_other_types_are_refused(settings):
    with capgpu.use_backend("numpy"):
        model = capgpu.CaptioningRNN(WORDS, **SIZES)
        with pytest.raises(TypeError):
            beam_search(model, np.zeros((2, SIZES["input_dim"]), np.float32), **settings)


def test_a_vocabulary_without_end_is_refused():
    with capgpu.use_backend("numpy"):
        model = capgpu.CaptioningRNN({"<NULL>": 0, "<START>": 1, "cat": 2}, **SIZES)
        with pytest.raises(ValueError, match="<END>"):
            beam_search(model, np.zeros((1, SIZES["input_dim"]), np.float32))


def test_features_that_are_not_finite_are_refused():
    with capgpu.use_backend("numpy"):
        model = capgpu.CaptioningRNN(WORDS, **SIZES)
        model.params.update({name: value.astype(np.float32) for name, value in parameters("rnn").items()})
        with pytest.raises(ValueError, match="features"):
            beam_search(model, np.full((1, SIZES["input_dim"]), np.nan, np.float32))


def test_a_beam_larger_than_the_free_memory_is_refused_before_it_is_searched(monkeypatch):
    with capgpu.use_backend("numpy"):
        model = capgpu.CaptioningRNN(WORDS, **SIZES)
        monkeypatch.setattr("capgpu.decode.beam.free_host_memory", lambda: 10**9)
        monkeypatch.setattr(model, "begin", lambda *_: pytest.fail("the search was begun"))
        with pytest.raises(ValueError, match=r"width: expected a beam that fits .* 1.0 GB, got 100,000,000 for 1 pict"):
            beam_search(model, np.zeros((1, SIZES["input_dim"]), np.float32), 100_000_000)
