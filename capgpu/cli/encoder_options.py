"""Options that say how pictures become features."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["ENCODER_SETTINGS", "encoder_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

#: The options' names as `capgpu.vision.open_encoder` has them: ``open_encoder(**settings)``.
ENCODER_SETTINGS = ("network", "output", "size", "mean", "std", "channels", "fit", "background")


class _Channels(click.ParamType):  # type: ignore[type-arg] # generic from click 8.3 on
    name = "NUMBER or R,G,B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        try:
            numbers = [float(part) for part in value.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 3):
            self.fail(f"{value!r} is neither one number nor three parted by commas.", param, ctx)
        return numbers * (3 // len(numbers))


_OPTIONS = (
    click.option(
        "--network",
        metavar="NAME",
        default="efficientnet-lite0",
        help="What computes features: efficientnet-lite0, or the .onnx file of a network.",
    ),
    click.option("--output", metavar="NAME", help="Of an .onnx file: the value to take.  [default: its first output]"),
    click.option("--size", type=click.IntRange(min=1), help="Of its input, in pixels.  [default: what the file says]"),
    click.option("--mean", type=_Channels(), help="Taken off the channels, 0 to 255.  [default: ImageNet's]"),
    click.option("--std", type=_Channels(), help="The channels are divided by it.  [default: ImageNet's]"),
    click.option("--channels", type=click.Choice(["RGB", "BGR"]), default="RGB", help="The order of the channels."),
    click.option(
        "--fit",
        type=click.Choice(["stretch", "crop", "pad"]),
        default="stretch",
        help="What becomes of pictures that are not square.",
    ),
    click.option("--background", metavar="COLOUR", default="white", help="Under transparency, and of padding."),
)


def encoder_options(command: Command) -> Command:
    """Give a command the options of `capgpu.vision.open_encoder`, named as in `ENCODER_SETTINGS`.

    Parameters
    ----------
    command : callable
        A click command's function.

    Returns
    -------
    callable
        The function with the options.
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
