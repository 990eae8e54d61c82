"""Arguments of another type are refused by name before anything is computed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capgpu
from capgpu import CapgpuError, CaptioningRNN, decode
from capgpu.checkpoint import save_model
from capgpu.interchange import export_onnx, torch_arrays

WORDS = {"<NULL>": 0, "<START>": 1, "<END>": 2, "cat": 3, "dog": 4}
FEATURES = np.ones((2, 3), np.float32)
CAPTIONS = np.array([[1, 3, 2], [1, 4, 2]])


def model(cell: Any = "gru", **settings: Any) -> CaptioningRNN:
    return CaptioningRNN(WORDS, 3, 4, 5, cell, **({"seed": 0} | settings))


@pytest.mark.parametrize(
    ("use", "says"),
    [
        (lambda: model(seed=-1), "seed: expected at least 0, got -1"),
        (lambda: model(seed=1.5), "seed: expected an integer, got 1.5"),
        (lambda: model(tie_weights="no"), "tie_weights: expected True or False, got 'no'"),
        (lambda: model().loss(FEATURES, CAPTIONS, dropout_key=1.5), "dropout_key: expected an integer, got 1.5"),
        (lambda: model().sample(FEATURES, "3"), "max_length: expected an integer, got '3'"),
        (lambda: model().sample(FEATURES, 3, "no"), "stop_at_end: expected True or False, got 'no'"),
        (lambda: decode.sample(model(), FEATURES, seed="x"), "seed: expected an integer, got 'x'"),
        (lambda: decode.GenerationConfig(temperature=1.0, seed=None), "seed: expected an integer, got None"),
        (lambda: decode.GenerationConfig(attention="no"), "attention: expected True or False, got 'no'"),
        *(
            (lambda d=decoder, f=features: d(model(), f), f"features{says}")
            for decoder in (decode.greedy, decode.beam_search, decode.sample)
            for features, says in (
                (np.array(1.0), ": expected shape (N, 3) with N >= 1, got ()"),
                ([[1.0, 2.0, 3.0]], ": expected an array, got a builtins.list"),
            )
        ),
    ],
)
def test_arguments_are_refused_by_name(use: Callable[[], object], says: str) -> None:
    capgpu.set_backend("numpy")
    with pytest.raises(CapgpuError) as caught:
        use()
    assert str(caught.value).startswith(says)


def test_masked_arrays_are_refused_whose_masks_would_be_ignored() -> None:
    capgpu.set_backend("numpy")
    for name, arrays in (
        ("features", (np.ma.masked_array(FEATURES, mask=True), CAPTIONS)),
        ("captions", (FEATURES, np.ma.masked_array(CAPTIONS, mask=CAPTIONS == 3))),
    ):
        with pytest.raises(TypeError, match=rf"^{name}: expected an array without a mask"):
            model().loss(*arrays)


def test_an_ensemble_is_written_to_no_file(tmp_path: Path) -> None:
    capgpu.set_backend("numpy")
    ensemble: Any = decode.Ensemble([model(), model("lstm")])
    for write in (
        lambda: save_model(tmp_path, ensemble),
        lambda: export_onnx(ensemble, tmp_path),
        lambda: torch_arrays(ensemble),
    ):
        with pytest.raises(TypeError, match=r"^model: expected a CaptioningRNN, got Ensemble\. Take each"):
            write()
    assert not list(tmp_path.iterdir())


def test_integers_of_numpy_serve_as_those_of_python(tmp_path: Path) -> None:
    capgpu.set_backend("numpy")
    words = {word: np.int64(index) for word, index in WORDS.items()}
    writer = CaptioningRNN(words, 3, 4, 5, "gru", seed=0)
    assert CaptioningRNN.load(writer.save(tmp_path)).word_to_idx == WORDS
    decode.greedy(writer, FEATURES, max_length=np.uint8(200))  # a warning of overflow is an error
    decode.beam_search(writer, FEATURES, np.uint8(20), max_length=np.uint8(20))
    data = {"train_captions": CAPTIONS, "train_features": FEATURES, "train_image_idxs": np.arange(2)}
    for resume in (False, True):
        capgpu.CaptioningSolver(
            writer,
            data,
            batch_size=np.int64(1),
            num_epochs=np.uint8(2),
            verbose=False,
            history=tmp_path / "history.jsonl",
            checkpoint=tmp_path / "state",
            resume=resume,
        ).train()
