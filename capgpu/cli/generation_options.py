"""The options of caption generation."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from capgpu.cli.options import Count, Number

__all__ = ["GENERATION_GROUPS", "generation_options"]

_OPTIONS = (
    click.option("--beam", type=Count(), default=1, help="Width of the beam search; 1 is greedy decoding."),
    click.option(
        "--length-penalty",
        type=Number(min=0),
        default=0.0,
        help="Length penalty of the beam search: above 0 favours longer captions; 0.6 to 0.7 is common.",
    ),
    click.option(
        "--temperature",
        type=Number(min=0, min_open=True),
        help="Sample words at this temperature: below 1 probable words are drawn more often.",
    ),
    click.option("--top-k", type=Count(), help="Sample from the K most probable words only."),
    click.option(
        "--top-p",
        type=Number(0, 1, min_open=True),
        help="Sample from the fewest most probable words with this probability in total.",
    ),
    click.option("--seed", type=Count(0), default=0, help="Seed of the sampling."),
    click.option("--max-length", type=Count(), default=30, help="Maximum number of words, END included."),
    click.option("--min-length", type=Count(0), default=0, help="Minimum number of words, without END."),
    click.option(
        "--no-repeat-ngram",
        type=Count(0),
        default=0,
        help="Do not repeat n-grams of this length; 0 allows repetitions.",
    ),
    click.option("--suppress-unk/--allow-unk", default=True, help="Whether captions may contain <UNK>."),
)

#: The options under their headings in the help.
GENERATION_GROUPS = {
    "Decoding": (
        "--beam",
        "--length-penalty",
        "--max-length",
        "--min-length",
        "--no-repeat-ngram",
        "--suppress-unk",
    ),
    "Sampling": ("--temperature", "--top-k", "--top-p", "--seed"),
}
#: The settings that these options set; the number of captions per picture is an option of one command.
_NAMES = (
    "beam",
    "length_penalty",
    "temperature",
    "top_k",
    "top_p",
    "seed",
    "max_length",
    "min_length",
    "no_repeat_ngram",
    "suppress_unk",
)


def generation_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of `capgpu.decode.GenerationConfig` to a command, which receives them as ``config``.

    Parameters
    ----------
    command : callable
        The function of a click command.

    Returns
    -------
    callable
        The function with the options.
    """

    @functools.wraps(command)
    def decorated(*args: Any, **options: Any) -> Any:
        from capgpu.decode import GenerationConfig

        settings = {name: options.pop(name) for name in _NAMES}
        return command(*args, config=GenerationConfig(**settings), **options)

    for option in reversed(_OPTIONS):
        decorated = option(decorated)
    return decorated
