"""Ensembles: the mean of the models' probabilities, computed by hand beside, whatever the decoder."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capgpu
from capgpu import CaptioningRNN
from capgpu.decode import Ensemble, GenerationConfig
from capgpu.decode.token_masks import TokenMasks
from oracles.numbers import distance
from oracles.scenes import SIZES, WORDS
from oracles.snapshots import frozen

CONFIGS = {
    "greedy": GenerationConfig(max_length=6),
    "beam": GenerationConfig(beam=3, captions=2, max_length=6),
    "sampled": GenerationConfig(temperature=0.9, captions=2, max_length=6, seed=4),
}


def models() -> list[CaptioningRNN]:
    """Return models of two cells and sizes, whose parameters are large enough to differ."""
    result = []
    for number, (cell, hidden) in enumerate((("lstm", 5), ("rnn", 7))):
        model = CaptioningRNN(WORDS, **{**SIZES, "hidden_dim": hidden}, cell_type=cell, dtype="float64", seed=number)
        random = np.random.default_rng(number)
        for name, array in model.params.items():
            model.params[name] = capgpu.asarray(random.standard_normal(array.shape))
        result.append(model)
    return result


def features(count: int = 4) -> Any:
    return np.random.default_rng(3).standard_normal((count, SIZES["input_dim"]))


def mean_log_probs(members: list[CaptioningRNN], ids: Any) -> Any:
    """Return the logarithm of the mean probability of each word of captions (N, T), for every next word (N, T, V)."""
    states = [model.begin(features(len(ids))) for model in members]
    words, result = np.full(len(ids), WORDS["<START>"]), []
    for step in range(ids.shape[1]):
        probabilities = []
        for k, model in enumerate(members):
            logits, states[k] = model.step(states[k], words)
            exponentials = np.exp(logits - logits.max(axis=1, keepdims=True))
            probabilities.append(exponentials / exponentials.sum(axis=1, keepdims=True))
        result.append(np.log(sum(probabilities) / len(members)))
        words = ids[:, step]
    return np.stack(result, axis=1)


@pytest.mark.parametrize("backend", ["numpy", "cuda"], indirect=True)
@pytest.mark.parametrize("name", CONFIGS)
def test_one_model_writes_what_it_writes_alone(backend: Any, name: str) -> None:
    model, pictures = models()[0], capgpu.asarray(features())
    alone, ensemble = CONFIGS[name](model, pictures), CONFIGS[name](Ensemble([model]), pictures)
    assert frozen([*ensemble]) == frozen([*alone])


@pytest.mark.parametrize("backend", ["numpy", "cuda"], indirect=True)
@pytest.mark.parametrize("name", CONFIGS)
def test_words_have_the_mean_of_the_models_probabilities(backend: Any, name: str) -> None:
    result = CONFIGS[name](Ensemble(models()), capgpu.asarray(features()))
    ids, log_probs = capgpu.to_numpy(result.ids), capgpu.to_numpy(result.log_probs)
    capgpu.set_backend("numpy")
    members = models()
    barred = TokenMasks(members[0], 6, 0, 0, True).step_mask(0)
    for k in range(ids.shape[1]):
        mean = mean_log_probs(members, ids[:, k])
        exists = ids[:, k] != WORDS["<NULL>"]
        expected = np.take_along_axis(mean, ids[:, k, :, None], axis=2)[:, :, 0]
        assert distance(log_probs[:, k], np.where(exists, expected, 0)) < 1e-12
        if name == "greedy":
            best = np.argmax(np.where(barred, -np.inf, mean), axis=2)
            assert (best == ids[:, k])[exists].all()


def test_models_that_do_not_fit_are_refused() -> None:
    capgpu.set_backend("numpy")
    model = models()[0]
    swapped = {**WORDS, "cat": WORDS["dog"], "dog": WORDS["cat"]}
    with pytest.raises(
        ValueError, match=r"second: expected the vocabulary of first, with 'cat' for the id 4, got 'dog'"
    ):
        Ensemble([model, CaptioningRNN(swapped, **SIZES, seed=0)], ["first", "second"])
    longer = {**WORDS, "blue": len(WORDS)}
    with pytest.raises(ValueError, match=r"with no word for the id 7, got 'blue'"):
        Ensemble([model, CaptioningRNN(longer, **SIZES, seed=0)])
    wider = CaptioningRNN(WORDS, **{**SIZES, "input_dim": 9}, seed=0)
    with pytest.raises(ValueError, match="model 2: expected a model of features of length 3"):
        Ensemble([model, wider])
    with pytest.raises(ValueError, match="at least one model"):
        Ensemble([])
    for wrong in (model, [1, 2], "ab"):
        with pytest.raises(TypeError, match="models: expected a list of models, got"):
            Ensemble(wrong)  # type: ignore[arg-type]  # on purpose
    with pytest.raises(ValueError, match="names: expected 2, one for each model, got 1"):
        Ensemble([model, model], ["first"])


def test_several_files_are_loaded_as_an_ensemble(tmp_path: Path) -> None:
    capgpu.set_backend("numpy")
    members = models()
    paths = [model.save(tmp_path / f"{number}.safetensors") for number, model in enumerate(members)]
    captioner = capgpu.load(paths)
    assert isinstance(captioner.model, Ensemble)
    captions = captioner.caption(features(), beam=3, max_length=6)
    expected = capgpu.TrainedCaptioner(Ensemble(members)).caption(features(), beam=3, max_length=6)
    assert captions == expected
    assert "<pre>" in captioner._repr_html_()
    assert isinstance(capgpu.load(paths[:1]).model, CaptioningRNN)
