"""Options that say how captions are written."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import fields
from typing import Any

import click

__all__ = ["decoding_options"]

_COUNT = click.IntRange(min=1)

_OPTIONS = (
    click.option("--beam", type=_COUNT, default=1, help="Search with a beam of this width; 1 is greedy."),
    click.option(
        "--length-penalty",
        type=click.FloatRange(min=0),
        default=0.0,
        help="Of the beam: above 0 favours longer captions; 0.6 to 0.7 is common.",
    ),
    click.option(
        "--temperature",
        type=click.FloatRange(min=0, min_open=True),
        help="Draw words at random: below 1 more often the probable ones.",
    ),
    click.option("--top-k", type=_COUNT, help="Draw from so many of the most probable words only."),
    click.option(
        "--top-p",
        type=click.FloatRange(0, 1, min_open=True),
        help="Draw from the most probable words that together have this probability.",
    ),
    click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the drawing."),
    click.option("--max-length", type=_COUNT, default=30, help="Words at most, the end counted."),
    click.option("--min-length", type=click.IntRange(min=0), default=0, help="Words at least, the end not counted."),
    click.option(
        "--no-repeat-ngram",
        type=click.IntRange(min=0),
        default=0,
        help="No run of so many words comes twice; 0 is no such rule.",
    ),
    click.option("--suppress-unk", is_flag=True, help="Never write <UNK>."),
)


def decoding_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of `capgpu.decode.Decoding`; it gets them as one argument, ``decoding``.

    Parameters
    ----------
    command : callable
        A click command's function.

    Returns
    -------
    callable
        The function with the options.
    """

    @functools.wraps(command)
    def decorated(*args: Any, **options: Any) -> Any:
        from capgpu.decode import Decoding

        settings = {field.name: options.pop(field.name) for field in fields(Decoding)}
        return command(*args, decoding=Decoding(**settings), **options)

    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
