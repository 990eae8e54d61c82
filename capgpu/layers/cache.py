"""What a forward pass keeps for its backward pass, with the name of the function that has returned it."""

from __future__ import annotations

from typing import Any, NamedTuple

from capgpu.errors import InvalidTypeError

__all__ = ["LayerCache", "read_cache"]


class LayerCache(NamedTuple):
    """The cache of a layer.

    Attributes
    ----------
    forward : str
        The function that has returned it.
    values : object
        What the backward pass reads.
    """

    forward: str
    values: Any


def read_cache(cache: Any, forward: str) -> Any:
    """Check that a cache is that of a function, and return its values: gradients of another could have fitting shapes.

    Parameters
    ----------
    cache : object
        Should be a `LayerCache`.
    forward : str
        The function that should have returned it.

    Returns
    -------
    object
        The values.

    Raises
    ------
    TypeError
        For anything else.
    """
    if not isinstance(cache, LayerCache):
        raise InvalidTypeError(f"cache: expected what {forward} returned last, got a {type(cache).__name__}.")
    if cache.forward != forward:
        raise InvalidTypeError(f"cache: expected what {forward} returned last, got that of {cache.forward}.")
    return cache.values
