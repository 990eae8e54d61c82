"""Learning-rate schedules: factors that multiply the learning rate of an update rule.

A schedule is a function ``schedule(step, total_steps) -> factor`` of the number of updates already made. It
keeps no state, so a resumed run sees the factors of an uninterrupted one.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from numbers import Real
from typing import Any, TypeAlias

from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.validation import as_float, check_count, check_positive
from capgpu.visible_text import hint, short

__all__ = [
    "SCHEDULES",
    "Schedule",
    "checked_factor",
    "constant",
    "cosine",
    "find_schedule",
    "linear",
    "step_decay",
    "with_warmup",
]

#: ``schedule(step, total_steps) -> factor``, with ``0 <= step < total_steps``.
Schedule: TypeAlias = Callable[[int, int], float]


def constant(step: int, total_steps: int) -> float:
    """Keep the learning rate as it is.

    Parameters
    ----------
    step : int
        Updates already made.
    total_steps : int
        Updates of the whole run.

    Returns
    -------
    float
        Always 1.
    """
    return 1.0


def linear(step: int, total_steps: int) -> float:
    """Return the factor of a linear decay from 1 to 0.

    Parameters
    ----------
    step : int
        Updates already made.
    total_steps : int
        Updates of the whole run.

    Returns
    -------
    float
        ``1 - step / total_steps``.
    """
    return 1.0 - step / total_steps


def cosine(step: int, total_steps: int) -> float:
    """Return the factor of a cosine decay from 1 to 0.

    Parameters
    ----------
    step : int
        Updates already made.
    total_steps : int
        Updates of the whole run.

    Returns
    -------
    float
        ``(1 + cos(pi * step / total_steps)) / 2``.

    Notes
    -----
    I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient Descent with Warm Restarts", 2017; no restarts.
    """
    return 0.5 * (1.0 + math.cos(math.pi * step / total_steps))


def step_decay(factor: float, every: int) -> Schedule:
    """Return a schedule that multiplies the learning rate by `factor` after every `every` updates.

    Parameters
    ----------
    factor : float
        Positive and finite.
    every : int
        Updates between two decays (an epoch's iterations decay once an epoch).

    Returns
    -------
    Schedule
        ``factor ** (step // every)``.

    Raises
    ------
    ValueError
        For a factor that is not positive and finite, or `every` below 1.
    """
    check_positive("factor", factor)
    check_count("every", every, 1)

    def decayed(step: int, total_steps: int) -> float:
        return float(factor ** (step // every))

    return decayed


def with_warmup(schedule: Schedule, warmup: int) -> Schedule:
    """Prepend a linear warm-up to a schedule.

    Parameters
    ----------
    schedule : Schedule
        What follows; it spans the updates that are left.
    warmup : int
        Updates of the rise: the factors ``1/warmup, 2/warmup, ..., 1``. 0 leaves the schedule unchanged.

    Returns
    -------
    Schedule
        The two in a row.

    Raises
    ------
    ValueError
        For a negative `warmup`.
    """
    check_count("warmup", warmup, 0)
    if warmup == 0:
        return schedule

    def warmed(step: int, total_steps: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return schedule(step - warmup, max(total_steps - warmup, 1))

    return warmed


def checked_factor(factor: Any, step: int) -> float:
    """Check what a schedule returned; NaN would pass for a training that has diverged.

    Parameters
    ----------
    factor : object
        Should be a finite number of at least 0.
    step : int
        The step that it was asked for.

    Returns
    -------
    float
        The factor.

    Raises
    ------
    TypeError, ValueError
        For anything else.
    """
    if isinstance(factor, bool) or not isinstance(factor, Real):
        raise InvalidTypeError(f"schedule: expected a number at step {step}, got {short(factor)}.")
    if not 0 <= as_float(factor) < math.inf:
        raise InvalidValueError(
            f"schedule: expected a finite factor of at least 0 at step {step}, got {short(factor)}."
        )
    return float(factor)


#: The schedules that need no parameter, by name.
SCHEDULES: dict[str, Schedule] = {"constant": constant, "linear": linear, "cosine": cosine}


def find_schedule(name: str) -> Schedule:
    """Look a schedule up.

    Parameters
    ----------
    name : str
        One of `SCHEDULES`.

    Returns
    -------
    Schedule
        The function.

    Raises
    ------
    ValueError
        For an unknown name; the message lists the known ones.
    """
    try:
        return SCHEDULES[name]
    except (KeyError, TypeError):
        raise InvalidValueError(
            f"schedule: expected one of {', '.join(sorted(SCHEDULES))}, or a function schedule(step, total_steps) -> "
            f"factor, got {short(name)}.{hint(name, SCHEDULES)}"
        ) from None
