"""Properties of CuPy's functions that NumPy's do not have: synchronization, nondeterminism, results on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .array import ndarray
from .names import words

Condition = Callable[[tuple[Any, ...], dict[str, Any]], bool]


def _always(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return True


def _given(index: int, name: str) -> Condition:
    def condition(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
        value = args[index] if len(args) > index else kwargs.get(name)
        return isinstance(value, ndarray)

    return condition


def _raising(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return "raise" in (*args, *kwargs.values())


def _without_choices(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    return len(args) + len(kwargs) == 1


# The size of the result, or an error, depends on values: the host has to read them. From the warnings and
# the comments in CuPy 14.2's source.
SYNCHRONISING: dict[str, Condition] = dict.fromkeys(
    words("""
        argwhere bincount compress diag_indices_from extract flatnonzero histogram histogram2d
        intersect1d nanmax nanmin nonzero place real_if_close setdiff1d setxor1d trim_zeros
        union1d unique unique_all unique_counts unique_inverse unique_values unravel_index
        tril_indices tril_indices_from triu_indices triu_indices_from
    """),
    _always,
)
SYNCHRONISING |= {
    "average": _given(2, "weights"),
    "delete": _given(1, "indices"),
    "percentile": _given(1, "q"),
    "quantile": _given(1, "q"),
    "putmask": _given(2, "values"),
    "ravel_multi_index": _raising,
    "repeat": _given(1, "repeats"),
    "split": _given(1, "indices_or_sections"),
    "array_split": _given(1, "indices_or_sections"),
    "where": _without_choices,
}

# Float atomics: the order of the additions, and with it the last bits, changes from run to run.
NONDETERMINISTIC = {
    "bincount": _given(1, "weights"),
    "histogram": _given(4, "weights"),
    "histogram2d": _given(4, "weights"),
}

# Answered from metadata, on the host.
HOST_RESULT = frozenset(
    words("""
        can_cast common_type iscomplexobj isfortran isrealobj isscalar may_share_memory
        min_scalar_type ndim result_type shape shares_memory size
    """)
)

# New arrays in the requested layout, or in that of the prototype; all others are row-major.
KEEPS_LAYOUT = frozenset(["full", "full_like", "ones", "ones_like", "zeros", "zeros_like"])

# Meaningful without any device array among the arguments.
OPTIONAL_ARRAYS = frozenset(
    words("""
        arange bartlett blackman can_cast diag_indices eye full hamming hanning identity indices
        isscalar kaiser linspace logspace min_scalar_type ones result_type tri tril_indices
        triu_indices zeros fftfreq rfftfreq broadcast_shapes ndim shape size
    """)
)

# CuPy would copy a list of numbers to the device implicitly, or fail with an obscure error.
NO_PLAIN_SEQUENCES = frozenset(
    words("""
        allclose append array_equal array_equiv bincount choose compress copyto cross digitize dot
        extract inner interp isclose isin kron matmul outer place put put_along_axis putmask
        searchsorted take take_along_axis vdot where
    """)
)
