"""What a format is that is fuzzed, and what several of them share."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tools.fuzz.mutators import (
    Mutator,
)

__all__ = ["SPLITS", "WORDS", "Format", "comparable", "example_data"]

WORDS = [
    "<NULL>",
    "<START>",
    "<END>",
    "<UNK>",
    *["a", "dog", "cat", "runs", "sits", "red", "on", "the", "mat", "under"],
]
SPLITS = ("train", "val")


@dataclass(frozen=True)
class Format:
    """A format and its reader.

    Attributes
    ----------
    write : callable
        Writes sound files into a folder.
    read : callable
        Reads them, and returns everything that was read, in a form that can be compared.
    mutators : mapping of str to sequence of Mutator
        How to mutate each file.
    protected : bool
        Whether a checksum detects each change that does not renew it.
    seal : callable or None
        Renews the checksums in a folder after the file of that name was mutated.
    needs : tuple of str
        Packages without which the format cannot be read.
    seconds : float
        Seconds that a reader may take for a mutant of a few kilobytes; measured twice, since the machine may be busy.
    """

    write: Callable[[Path], None]
    read: Callable[[Path], Any]
    mutators: Mapping[str, Sequence[Mutator]]
    protected: bool = False
    seal: Callable[[Path, str], None] | None = None
    needs: tuple[str, ...] = ()
    seconds: float = 2.0


def comparable(value: Any) -> Any:
    """Return a value in which arrays are replaced by their bytes."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return {key: comparable(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [comparable(entry) for entry in value]
    return value


def example_data() -> dict[str, Any]:
    """Return a data set of a few captions."""
    random = np.random.default_rng(0)
    data: dict[str, Any] = {"idx_to_word": WORDS, "word_to_idx": {word: i for i, word in enumerate(WORDS)}}
    for split in SPLITS:
        captions = random.integers(4, len(WORDS), (6, 5)).astype(np.int32)
        captions[:, 0], captions[:, 4] = 1, 2
        data[f"{split}_captions"], data[f"{split}_image_idxs"] = captions, np.arange(6) % 3
        data[f"{split}_features"] = random.normal(size=(3, 4)).astype(np.float32)
        data[f"{split}_texts"] = [" ".join(WORDS[i] for i in row[1:4]) for row in captions]
        data[f"{split}_image_ids"] = ["one", 2, "drei"]
    return data
