"""Summaries of timings that were taken in interleaved slices."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

Slices = Sequence[Sequence[float]]


@dataclass(frozen=True)
class Summary:
    """Milliseconds per step: median, minimum and interquartile range over all samples of all slices."""

    median: float
    minimum: float
    iqr: float
    samples: int

    @property
    def noise(self) -> float:
        """Interquartile range over the median."""
        return self.iqr / self.median


def summarise(slices: Slices) -> Summary:
    """Summarise slices of per-step milliseconds.

    The median and the spread are those of the slices' medians, so that a slice with more steps weighs no more
    than another; a single slice is summarised by its own samples.

    Raises
    ------
    ValueError
        If there is no slice, or one without samples.
    """
    if not slices or any(len(part) == 0 for part in slices):
        raise ValueError("a summary needs at least one slice, and a sample in each")
    medians = np.array([np.median(part) for part in slices])
    spread = medians if len(medians) > 1 else np.asarray(slices[0])
    low, high = np.percentile(spread, [25, 75])
    return Summary(
        median=float(np.median(medians)),
        minimum=float(min(min(part) for part in slices)),
        iqr=float(high - low),
        samples=sum(len(part) for part in slices),
    )


def paired_ratio(ours: Slices, theirs: Slices) -> float:
    """Return the median, over rounds, of our slice's median to theirs.

    Slices of one round were taken one after the other, so drift of the machine's speed cancels.

    Raises
    ------
    ValueError
        If the two have different numbers of rounds, or none.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"paired slices wanted, got {len(ours)} and {len(theirs)} rounds")
    return float(np.median([np.median(a) / np.median(b) for a, b in zip(ours, theirs, strict=True)]))


def worst_error(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> float:
    """Return the largest norm-wise relative difference over the arrays of `want`.

    Raises
    ------
    ValueError
        If an array is missing or has another shape.
    """
    worst = 0.0
    for name, wanted in want.items():
        if name not in got or got[name].shape != wanted.shape:
            raise ValueError(f"{name}: wanted shape {wanted.shape}, got {got[name].shape if name in got else None}")
        scale = float(np.linalg.norm(wanted.astype(np.float64).ravel()))
        gap = float(np.linalg.norm((got[name].astype(np.float64) - wanted).ravel()))
        worst = max(worst, gap / scale if scale else gap)
    return worst


def disagreement(got: dict[str, np.ndarray], want: dict[str, np.ndarray]) -> float:
    """Return the share of differing entries in integer results (sampled words)."""
    return max(float(np.mean(got[name] != wanted)) for name, wanted in want.items())
