"""Pretrained word vectors: what is read of the files as they are distributed, and where it goes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import capgpu
from capgpu.data.text_files import DataFileError
from capgpu.data.word_vectors import load_word_vectors, set_word_vectors
from capgpu.model import CaptioningRNN

GLOVE = "the 0.1 0.2\n. . . 7 8\ncat 0.5 -1.0\nParis 1 2\nparis 3 4\nna\u00efve 5e-1 0\n"
WORDS = ["<NULL>", "<START>", "<END>", "cat", "Cat", "Paris", "naïve", "dog"]


@pytest.mark.parametrize("header", ["", "6 2\n"])
def test_words_are_found_as_they_are_and_then_in_lower_case(tmp_path: Path, header: str) -> None:
    (tmp_path / "v.txt").write_text(header + GLOVE, encoding="utf-8")
    found = load_word_vectors(tmp_path / "v.txt", [*WORDS, ". . ."])
    assert {word: vector.tolist() for word, vector in found.items()} == {
        "cat": [0.5, -1.0],
        "Cat": [0.5, -1.0],
        "Paris": [1.0, 2.0],
        "naïve": [0.5, 0.0],
        ". . .": [7.0, 8.0],
    }


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("the 0.1 0.2\ncat 0.5\n", "line 2: expected a word and 2 numbers"),
        ("cat 0.5 x\n", "line 1: expected 2 numbers"),
        ("the 1 2\ncat 1 nan\n", "line 2: expected finite numbers"),
        ("cat\n", "line 1: expected a word and some numbers"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "v.txt").write_text(text)
    with pytest.raises(DataFileError, match=rf"v\.txt, {says}"):
        load_word_vectors(tmp_path / "v.txt", ["cat"])


def test_the_models_rows_are_replaced_and_others_stay(backend) -> None:
    model = CaptioningRNN({word: i for i, word in enumerate(WORDS)}, 3, 2, 4, seed=0)
    before = capgpu.to_numpy(model.params["W_embed"]).copy()
    kept = set_word_vectors(model, {"cat": np.array([0.5, -1.0]), "elsewhere": np.zeros(9)})
    after = capgpu.to_numpy(model.params["W_embed"])
    assert kept == [word for word in WORDS if word != "cat"]
    assert after[3].tolist() == [0.5, -1.0]
    assert np.array_equal(np.delete(after, 3, axis=0), np.delete(before, 3, axis=0))
    with pytest.raises(ValueError, match=r"vectors\['dog'\]: expected shape \(2,\).* wordvec_dim=3"):
        set_word_vectors(model, {"dog": np.zeros(3)})
    with pytest.raises(ValueError, match="got none"):
        set_word_vectors(model, {"elsewhere": np.zeros(2)})
