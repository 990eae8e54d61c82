"""The packed layout by plain lists: step by step, longest sequence first."""

from __future__ import annotations

from typing import Any

import numpy as np

from oracles.recurrences import Floats


def batch_sizes_of(lengths: tuple[int, ...]) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Count the sequences alive at each step."""
    return np.array([sum(length > t for length in lengths) for t in range(max(lengths, default=0))], dtype=np.int64)


def packed(sequences: list[Floats], width: int) -> Floats:
    """Lay sequences (T_n, width), longest first, out step by step."""
    steps = max((len(sequence) for sequence in sequences), default=0)
    rows = [sequence[t] for t in range(steps) for sequence in sequences if t < len(sequence)]
    return np.array(rows).reshape(-1, width)


def unpacked(rows: Floats, lengths: tuple[int, ...]) -> list[Floats]:
    """Undo `packed`."""
    out: list[list[Floats]] = [[] for _ in lengths]
    source = iter(rows)
    for t in range(max(lengths, default=0)):
        for n, length in enumerate(lengths):
            if t < length:
                out[n].append(next(source))
    return [np.array(sequence).reshape(-1, rows.shape[1]) for sequence in out]
