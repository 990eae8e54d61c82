"""Cells of the course's captioning notebooks, and public solutions' sampling loops, with their imports changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import capgpu
from capgpu import CaptioningRNN, CaptioningSolver
from capgpu.data.cs231n_coco import decode_captions, load_coco_data, sample_coco_minibatch
from capgpu.layers import (
    affine_backward,
    affine_forward,
    lstm_backward,
    lstm_forward,
    lstm_step_forward,
    rnn_backward,
    rnn_forward,
    rnn_step_forward,
    temporal_affine_backward,
    temporal_affine_forward,
    temporal_softmax_loss,
    word_embedding_backward,
    word_embedding_forward,
)
from oracles.course_files import course_arrays, write_course_files


@pytest.fixture(autouse=True)
def _course_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "cs231n" / "datasets" / "coco_captioning"
    folder.parent.mkdir(parents=True)
    write_course_files(folder, course_arrays())
    monkeypatch.chdir(tmp_path)
    capgpu.set_backend("numpy")


class Solution:
    """A model as public solutions write it; its parameters have any dtype."""

    def __init__(self, word_to_idx: dict[str, int], input_dim: int, cell_type: str, dtype: Any = np.float32) -> None:
        rng = np.random.default_rng(0)
        gates, hidden, wordvec, vocab = (4 if cell_type == "lstm" else 1), 7, 5, len(word_to_idx)
        shapes = {
            **{"W_embed": (vocab, wordvec), "W_proj": (input_dim, hidden), "b_proj": (hidden,)},
            **{"Wx": (wordvec, gates * hidden), "Wh": (hidden, gates * hidden), "b": (gates * hidden,)},
            **{"W_vocab": (hidden, vocab), "b_vocab": (vocab,)},
        }
        self.cell_type, self._null, self._start = cell_type, word_to_idx["<NULL>"], word_to_idx["<START>"]
        self.params = {name: rng.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}

    def loss(self, features: Any, captions: Any) -> tuple[Any, dict[str, Any]]:
        captions_in, captions_out = captions[:, :-1], captions[:, 1:]
        p = self.params
        forward, backward = (lstm_forward, lstm_backward) if self.cell_type == "lstm" else (rnn_forward, rnn_backward)
        h0, cache_proj = affine_forward(features, p["W_proj"], p["b_proj"])
        x, cache_embed = word_embedding_forward(captions_in, p["W_embed"])
        h, cache_rnn = forward(x, h0, p["Wx"], p["Wh"], p["b"])
        scores, cache_vocab = temporal_affine_forward(h, p["W_vocab"], p["b_vocab"])
        loss, dscores = temporal_softmax_loss(scores, captions_out, captions_out != self._null, verbose=False)
        grads = {}
        dh, grads["W_vocab"], grads["b_vocab"] = temporal_affine_backward(dscores, cache_vocab)
        dx, dh0, grads["Wx"], grads["Wh"], grads["b"] = backward(dh, cache_rnn)
        grads["W_embed"] = word_embedding_backward(dx, cache_embed)
        _, grads["W_proj"], grads["b_proj"] = affine_backward(dh0, cache_proj)
        return loss, grads

    def sample(self, features: Any, style: str, max_length: int = 6) -> Any:
        p, N = self.params, features.shape[0]
        captions = self._null * np.ones((N, max_length), dtype=np.int32)
        h: Any
        if style == "affine_forward, words (N, 1)":
            h, _ = affine_forward(features, p["W_proj"], p["b_proj"])
            c = np.zeros_like(h)
            word: Any = self._start * np.ones((N, 1), dtype=np.int32)
        elif style == "dot, words in a list":
            h = features.dot(p["W_proj"]) + p["b_proj"]
            c = np.zeros(h.shape)  # float64
            word = [self._start] * N
        else:  # vectors of words by indexing
            h, c, word = np.dot(features, p["W_proj"]) + p["b_proj"], np.zeros((N, p["Wh"].shape[0])), None
            x = p["W_embed"][self._start] * np.ones((N, 1))  # float64
        for t in range(max_length):
            if word is not None:
                x, _ = word_embedding_forward(word, p["W_embed"])
                x = np.squeeze(x, 1) if x.ndim == 3 else x
            if self.cell_type == "rnn":
                h, _ = rnn_step_forward(x, h, p["Wx"], p["Wh"], p["b"])
            else:
                h, c, _ = lstm_step_forward(x, h, c, p["Wx"], p["Wh"], p["b"])
            if style == "affine_forward, words (N, 1)":
                scores, _ = temporal_affine_forward(h[:, np.newaxis, :], p["W_vocab"], p["b_vocab"])
                captions[:, t] = np.argmax(np.squeeze(scores, 1), axis=1)
                word = captions[:, t].reshape(N, 1)
            elif word is not None:
                scores, _ = affine_forward(h, p["W_vocab"], p["b_vocab"])
                captions[:, t] = word = np.argmax(scores, axis=1)
            else:
                captions[:, t] = (h.dot(p["W_vocab"]) + p["b_vocab"]).argmax(axis=1)
                x = p["W_embed"][captions[:, t]]
        return captions


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_solutions_train_and_sample_in_all_styles_as_the_model_does(cell: Any) -> None:
    data = load_coco_data(max_train=20)
    size = data["train_features"].shape[1]
    model = CaptioningRNN(data["word_to_idx"], size, 5, 7, cell_type=cell)
    solution = Solution(data["word_to_idx"], size, cell)
    model.params.update({name: value.copy() for name, value in solution.params.items()})
    solvers = [
        CaptioningSolver(
            each,
            data,
            update_rule="adam",
            num_epochs=3,
            batch_size=10,
            optim_config={"learning_rate": 5e-3},
            lr_decay=0.95,
            verbose=False,
            print_every=10,
            seed=0,
        )
        for each in (model, solution)
    ]
    for solver in solvers:
        solver.train()
    assert solvers[0].loss_history == pytest.approx(solvers[1].loss_history, rel=1e-4)
    _, features, _ = sample_coco_minibatch(data, split="val", batch_size=2)
    styles = ("affine_forward, words (N, 1)", "dot, words in a list", "indexing")
    written = [decode_captions(solution.sample(features, style), data["idx_to_word"]) for style in styles]
    assert written == [decode_captions(model.sample(features, max_length=6), data["idx_to_word"])] * 3


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_float64_parameters_take_the_float32_features_of_the_data(cell: str) -> None:
    data = load_coco_data()
    captions, features, _ = sample_coco_minibatch(data, batch_size=3)
    solution = Solution(data["word_to_idx"], features.shape[1], cell, np.float64)
    loss, grads = solution.loss(features, captions)
    assert features.dtype == np.float32
    assert {value.dtype for value in (loss, *grads.values())} == {np.dtype(np.float64)}
    assert loss == pytest.approx(solution.loss(features.astype(np.float64), captions)[0], rel=1e-14)
