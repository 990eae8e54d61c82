"""Statistics of timings that were taken in interleaved slices."""

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

    Median and spread are those of the slices' medians, so that every slice has the same weight regardless of its number
    of steps; a single slice is summarised by its samples.

    Raises
    ------
    ValueError
        If there is no slice, or one without samples.
    """
    if not slices or any(len(samples) == 0 for samples in slices):
        raise ValueError("slices: expected at least one slice with at least one sample each")
    medians = np.array([np.median(samples) for samples in slices])
    spread_over = medians if len(medians) > 1 else np.asarray(slices[0])
    low, high = np.percentile(spread_over, [25, 75])
    return Summary(
        median=float(np.median(medians)),
        minimum=float(min(min(samples) for samples in slices)),
        iqr=float(high - low),
        samples=sum(len(samples) for samples in slices),
    )


def paired_ratio(ours: Slices, theirs: Slices) -> float:
    """Return the median over rounds of the ratio of our slice's median to theirs.

    Slices of one round were taken one after the other, so drift of the machine's speed cancels.

    Raises
    ------
    ValueError
        If the two have different numbers of rounds, or none.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"expected equal numbers of rounds, at least one, got {len(ours)} and {len(theirs)}")
    return float(
        np.median(
            [np.median(our_slice) / np.median(their_slice) for our_slice, their_slice in zip(ours, theirs, strict=True)]
        )
    )


def worst_error(result: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the largest norm-wise relative difference over the arrays of `expected`.

    Raises
    ------
    ValueError
        If an array is missing or has another shape.
    """
    largest = 0.0
    for name, array in expected.items():
        if name not in result or result[name].shape != array.shape:
            raise ValueError(
                f"{name}: expected shape {array.shape}, got {result[name].shape if name in result else None}"
            )
        scale = float(np.linalg.norm(array.astype(np.float64).ravel()))
        difference = float(np.linalg.norm((result[name].astype(np.float64) - array).ravel()))
        largest = max(largest, difference / scale if scale else difference)
    return largest


def disagreement(result: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> float:
    """Return the share of differing entries in integer results (sampled words)."""
    return max(float(np.mean(result[name] != array)) for name, array in expected.items())
