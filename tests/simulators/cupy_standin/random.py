"""``cupy.random``: seeded numbers on the device. They are NumPy's, which differ from those that CuPy would draw."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .array import ndarray, operand, supported, wrap
from .errors import ensure_usable
from .names import words

_REAL = words("""
    beta chisquare exponential gamma gumbel laplace logistic lognormal normal pareto poisson power
    rayleigh standard_cauchy standard_exponential standard_gamma standard_normal uniform vonmises
    weibull
""")
_GENERATOR = words("""
    beta binomial chisquare dirichlet exponential f gamma geometric hypergeometric integers
    logseries poisson power random standard_exponential standard_gamma standard_normal uniform
""")
_WITH_DTYPE = frozenset(["random", "standard_normal", "standard_exponential", "standard_gamma"])


def _drawn(draw: Callable[..., Any], name: str, args: Any, kwargs: dict[str, Any]) -> ndarray:
    ensure_usable()
    args = tuple(operand(value) if type(value) is ndarray else value for value in args)
    dtype = kwargs.pop("dtype", None) if name not in _WITH_DTYPE and name != "integers" else None
    values = np.asarray(draw(*args, **kwargs))
    return wrap(values if dtype is None else values.astype(supported(np.dtype(dtype))))


class Generator:
    """A seeded source of random numbers, with the distributions that CuPy's has."""

    def __init__(self, seed: Any = None) -> None:
        self._host = np.random.default_rng(seed)


def _generator_method(name: str) -> Callable[..., ndarray]:
    def method(self: Generator, *args: Any, **kwargs: Any) -> ndarray:
        return _drawn(getattr(self._host, name), name, args, kwargs)

    method.__name__ = name
    return method


for _name in _GENERATOR:
    setattr(Generator, _name, _generator_method(_name))


def default_rng(seed: Any = None) -> Generator:
    """Return a new generator."""
    ensure_usable()
    return Generator(seed)


_shared = Generator()


def seed(seed: Any = None) -> None:
    """Seed the generator that the functions of this module share."""
    ensure_usable()
    _shared._host = np.random.default_rng(seed)


def _module_function(name: str) -> Callable[..., ndarray]:
    def function(*args: Any, **kwargs: Any) -> ndarray:
        return _drawn(getattr(_shared._host, name), name, args, kwargs)

    function.__name__ = name
    return function


def rand(*size: int, dtype: Any = float) -> ndarray:
    """Return numbers from [0, 1)."""
    return _drawn(_shared._host.random, "rand", (size,), {"dtype": dtype})


def randn(*size: int, dtype: Any = float) -> ndarray:
    """Return standard normal numbers."""
    return _drawn(_shared._host.standard_normal, "randn", (size,), {"dtype": dtype})


def randint(low: int, high: int | None = None, size: Any = None, dtype: Any = int) -> ndarray:
    """Return integers from [low, high)."""
    return _drawn(_shared._host.integers, "randint", (low, high, size), {"dtype": dtype})


def permutation(a: Any) -> ndarray:
    """Return a shuffled copy, or the shuffled numbers below an integer."""
    return _drawn(_shared._host.permutation, "permutation", (a,), {})


def shuffle(a: ndarray) -> None:
    """Shuffle an array in place along its first axis."""
    ensure_usable()
    _shared._host.shuffle(operand(a))


def choice(a: Any, size: Any = None, replace: bool = True, p: Any = None) -> ndarray:
    """Draw from an array, or from the numbers below an integer."""
    weights = operand(p) if p is not None else None
    return _drawn(_shared._host.choice, "choice", (a, size, replace, weights), {})


FUNCTIONS: dict[str, Callable[..., Any]] = {name: _module_function(name) for name in [*_REAL, "random"]} | {
    "Generator": Generator,
    "choice": choice,
    "default_rng": default_rng,
    "permutation": permutation,
    "rand": rand,
    "randint": randint,
    "randn": randn,
    "random_sample": _module_function("random"),
    "seed": seed,
    "shuffle": shuffle,
}
