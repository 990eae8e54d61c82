"""Pretrained word vectors, in the text files of GloVe and word2vec."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from capgpu.backend import Array, asarray, to_numpy
from capgpu.data.text_files import DataFileError
from capgpu.errors import InvalidValueError

__all__ = ["load_word_vectors", "set_word_vectors"]


class _Embedding(Protocol):
    """A model with word vectors."""

    word_to_idx: dict[str, int]
    params: dict[str, Array]


def load_word_vectors(path: str | os.PathLike[str], words: Iterable[str]) -> dict[str, npt.NDArray[np.float32]]:
    r"""Load the vectors of some words.

    Parameters
    ----------
    path : path
        A text file in UTF-8 with a word and its numbers, separated by spaces, in each line: GloVe's, or word2vec's with
        its first line of two counts.
    words : iterable of str
        The words. One that the file lacks has the vector of its lower-case form, if there is one.

    Returns
    -------
    dict of str to numpy.ndarray of float32, shape (W,)
        The vectors of the words that the file has.

    Raises
    ------
    DataFileError
        For a line that is no word with numbers, or has another number of them than the first one.
    OSError
        If the file cannot be read.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from capgpu.data.word_vectors import load_word_vectors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "glove.txt")
    ...     _ = path.write_text("the 0.1 0.2\ncat 0.5 -1.0\n")
    ...     load_word_vectors(path, ["cat", "dog"])
    {'cat': array([ 0.5, -1. ], dtype=float32)}
    """
    words_by_entry: dict[bytes, list[str]] = {}
    for word in dict.fromkeys(words):
        words_by_entry.setdefault(word.encode(), []).append(word)
        if word.lower() != word:
            words_by_entry.setdefault(word.lower().encode(), []).append(word)
    found: dict[str, npt.NDArray[np.float32]] = {}
    length = 0
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            fields = line.rstrip().split(b" ")
            if number == 1 and len(fields) == 2 and all(field.isdigit() for field in fields):
                continue  # word2vec: how many words, of how many numbers
            if not length:
                length = len(fields) - 1
            # a few of GloVe's words contain spaces
            entry = b" ".join(fields[:-length]) if length else b""
            if len(fields) <= length or not length:
                raise _damaged(path, number, f"a word and {length or 'some'} numbers", len(fields) - 1)
            for name in words_by_entry.get(entry, ()):
                if name not in found or name.encode() == entry:  # the word itself has precedence over its lower case
                    found[name] = _vector(path, number, fields[-length:])
    return found


def _vector(path: str | os.PathLike[str], number: int, fields: list[bytes]) -> npt.NDArray[np.float32]:
    try:
        vector = np.array([float(field) for field in fields], np.float32)
    except ValueError as error:
        raise _damaged(path, number, f"{len(fields)} numbers", str(error)) from error
    if not np.isfinite(vector).all():
        raise _damaged(path, number, "finite numbers", "NaN or infinity")
    return vector


def _damaged(path: str | os.PathLike[str], number: int, expected: str, found: object) -> DataFileError:
    return DataFileError(
        f"{os.fspath(path)}, line {number}: expected {expected}, as in the text files of GloVe, got {found}."
    )


def set_word_vectors(model: _Embedding, vectors: Mapping[str, npt.NDArray[Any]]) -> list[str]:
    """Replace the word vectors of a model, ``params["W_embed"]``, by others; words without one keep theirs.

    Parameters
    ----------
    model : CaptioningRNN
        The model.
    vectors : mapping of str to array of shape (W,)
        Vectors by word, as from `load_word_vectors`.

    Returns
    -------
    list of str
        The words of the vocabulary that keep their vectors, special tokens among them.

    Raises
    ------
    ValueError
        For vectors of another length than the model's ``wordvec_dim``, or none of any word of the vocabulary.

    Examples
    --------
    >>> import numpy as np, capgpu
    >>> from capgpu.data.word_vectors import set_word_vectors
    >>> words = {"<NULL>": 0, "<START>": 1, "<END>": 2, "cat": 3, "dog": 4}
    >>> model = capgpu.CaptioningRNN(words, input_dim=4, wordvec_dim=2, hidden_dim=6)
    >>> set_word_vectors(model, {"cat": np.array([0.5, -1.0])})
    ['<NULL>', '<START>', '<END>', 'dog']
    """
    matrix = to_numpy(model.params["W_embed"]).copy()
    kept = [word for word in model.word_to_idx if word not in vectors]
    if len(kept) == len(model.word_to_idx):
        raise InvalidValueError("vectors: expected vectors of words of the vocabulary, got none. Is it the right file?")
    for word, index in model.word_to_idx.items():
        if word in vectors:
            vector = np.asarray(vectors[word])
            if vector.shape != matrix.shape[1:]:
                raise InvalidValueError(
                    f"vectors[{word!r}]: expected shape {matrix.shape[1:]}, the model's wordvec_dim, got "
                    f"{vector.shape}. Create the model with wordvec_dim={vector.size}."
                )
            matrix[index] = vector.astype(matrix.dtype)
    model.params["W_embed"] = asarray(matrix)
    return kept
