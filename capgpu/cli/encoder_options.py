"""The options of picture encoders."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["ENCODER_SETTINGS", "encoder_options"]

Command = TypeVar("Command", bound=Callable[..., Any])

#: The names of the options, which are parameters of `capgpu.vision.open_encoder`.
ENCODER_SETTINGS = ("network", "output", "size", "mean", "std", "channels", "fit", "background", "grid")


class _Channels(click.ParamType):  # type: ignore[type-arg] # generic from click 8.3 on
    name = "NUMBER or R,G,B"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> list[float]:
        try:
            numbers = [float(part) for part in value.split(",")]
        except ValueError:
            numbers = []
        if len(numbers) not in (1, 3):
            self.fail(f"expected one number, or three separated by commas, got {value!r}.", param, ctx)
        return numbers * (3 // len(numbers))


_OPTIONS = (
    click.option(
        "--network",
        metavar="NAME",
        default="efficientnet-lite0",
        help="Network that computes features: efficientnet-lite0, or an .onnx file.",
    ),
    click.option("--output", metavar="NAME", help="Value of an .onnx file to use.  [default: its first output]"),
    click.option(
        "--size",
        type=click.IntRange(min=1),
        metavar="N",
        help="Size of its input, in pixels.  [default: as in the file]",
    ),
    click.option("--mean", type=_Channels(), help="Mean of the channels, 0 to 255.  [default: ImageNet's]"),
    click.option("--std", type=_Channels(), help="Standard deviation of the channels.  [default: ImageNet's]"),
    click.option("--channels", type=click.Choice(["RGB", "BGR"]), default="RGB", help="Order of the channels."),
    click.option(
        "--fit",
        type=click.Choice(["stretch", "crop", "pad"]),
        default="stretch",
        help="How pictures become square.",
    ),
    click.option(
        "--background", metavar="COLOUR", default="white", help="Colour under transparent pixels and of the padding."
    ),
    click.option(
        "--grid",
        type=click.IntRange(min=1),
        metavar="N",
        help="Compute features of N x N cells of a picture, for attention: at most 7 for efficientnet-lite0.  "
        "[default: one feature vector for all of it]",
    ),
)


def encoder_options(command: Command) -> Command:
    """Add the options of `capgpu.vision.open_encoder` to a command, named as in `ENCODER_SETTINGS`.

    Parameters
    ----------
    command : callable
        The function of a click command.

    Returns
    -------
    callable
        The function with the options.
    """
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
