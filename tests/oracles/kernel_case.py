"""One operation of the kernels' contract as data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from oracles.recurrences import Floats

Arguments = dict[str, Any]


class Extents(NamedTuple):
    """Extents of a case: length of each sequence, hidden size H, vocabulary V."""

    lengths: tuple[int, ...]
    H: int
    V: int


@dataclass(frozen=True)
class KernelCase:
    """One operation in one of its variants.

    Attributes
    ----------
    operation : str
        Name in the contract.
    variant : str
        Which optional arguments are given.
    arguments : callable
        (random, Extents, dtype) -> arguments on the host, values rounded to the dtype.
    plain : callable
        (arguments in float64, Extents) -> tuple of results.
    kinds : tuple of str
        ``"forward"`` or ``"gradient"`` for each result: its tolerance.
    """

    operation: str
    variant: str
    arguments: Callable[[np.random.Generator, Extents, str], Arguments]
    plain: Callable[[Arguments, Extents], tuple[Any, ...]]
    kinds: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.operation}-{self.variant}" if self.variant else self.operation


def draw(random: np.random.Generator, dtype: str, *shape: int) -> Floats:
    """Draw numbers that the dtype represents."""
    return random.uniform(-1, 1, shape).astype(dtype)


def exactly(arguments: Arguments, dtype: str) -> Arguments:
    """Return arguments whose arrays of the dtype are float64."""
    return {
        name: value.astype(np.float64) if isinstance(value, np.ndarray) and value.dtype == dtype else value
        for name, value in arguments.items()
    }
