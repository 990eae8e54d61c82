"""The options of METEOR and SPICE, which need Java."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from capgpu.evaluation.scores import JAVA_METRICS
from capgpu.metrics.meteor_spice import check_java_metric

__all__ = ["java_options"]


def java_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add ``--meteor`` and ``--spice`` to a command, which receives them as one argument, ``java``.

    Parameters
    ----------
    command : callable
        The function of a click command; ``java`` is the list of requested names of `JAVA_METRICS`. It is called only
        if their programs can run.

    Returns
    -------
    callable
        The function with the options.
    """

    @functools.wraps(command)
    def decorated(*args: Any, **options: Any) -> Any:
        java = [name for name in JAVA_METRICS if options.pop(name.lower())]
        for name in java:
            check_java_metric(name)
        return command(*args, java=java, **options)

    for name in reversed(JAVA_METRICS):
        note = f"Compute {name}, too: needs the package pycocoevalcap, and Java."
        decorated = click.option(f"--{name.lower()}", is_flag=True, help=note)(decorated)
    return decorated
