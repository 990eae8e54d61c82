"""The losses of a run, and the way back when they diverge."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, MutableMapping, Sequence
from numbers import Real
from typing import Any

from capgpu.backend import Array, array_namespace, is_host_array, to_numpy
from capgpu.errors import NonFiniteError
from capgpu.parameters import all_finite

__all__ = ["LossRecord", "copy_arrays", "divergence", "to_floats"]


def to_floats(scalars: Sequence[Any]) -> list[float]:
    """Copy numbers, or arrays without dimensions, to the host in one transfer.

    Parameters
    ----------
    scalars : sequence of float or array
        Of one kind.

    Returns
    -------
    list of float
        Their values.
    """
    if not scalars:
        return []
    if is_host_array(scalars[0]) or isinstance(scalars[0], Real):
        return [float(scalar) for scalar in scalars]
    stacked = array_namespace(scalars[0]).stack(list(scalars))
    return [float(value) for value in to_numpy(stacked)]


class LossRecord:
    """The loss of each step, kept where it was computed until somebody needs it.

    Parameters
    ----------
    values : iterable of float
        Losses of earlier steps.
    """

    def __init__(self, values: Iterable[float] = ()) -> None:
        self._values = list(values)
        self._pending: list[Any] = []
        self._finite = len(self._values)
        self._kept: tuple[int, dict[str, Array]] = (0, {})

    @property
    def values(self) -> list[float]:
        """All losses; on a device, this waits for the last one."""
        if self._pending:
            self._values += to_floats(self._pending)
            self._pending.clear()
        return self._values

    @property
    def last(self) -> Any:
        """The last loss, where it was computed: a number, or an array of a device that has not been waited for."""
        return self._pending[-1] if self._pending else self._values[-1]

    def append(self, loss: Any) -> bool:
        """Add a step's loss, and tell whether looking at it now costs nothing (it is on the host)."""
        self._pending.append(loss)
        return is_host_array(loss) or isinstance(loss, Real)

    def first_not_finite(self) -> int | None:
        """Return the step of the first loss that is NaN or infinite, if there is one."""
        values = self.values
        while self._finite < len(values):
            if not math.isfinite(values[self._finite]):
                return self._finite
            self._finite += 1
        return None

    def keep(self, step: int, params: MutableMapping[str, Array]) -> None:
        """Keep copies of the parameters, known to be good, that `step` updates have led to."""
        self._kept = step, copy_arrays(params)

    def go_back(self, step: int, params: MutableMapping[str, Array]) -> int:
        """Return to the last good parameters after a loss that is not finite.

        Parameters
        ----------
        step : int
            Updates made.
        params : dict of str to array
            The parameters after them. They stay where only the last loss failed, whose update is not yet
            made, and they are finite; else the copies kept last replace them.

        Returns
        -------
        int
            Updates that led to what `params` holds now; later losses are forgotten.
        """
        if self.first_not_finite() != step or not all(map(all_finite, params.values())):
            step, kept = self._kept
            params.update(kept)
        del self.values[step:]
        self._finite = step
        return step


def divergence(
    step: int,
    loss: float,
    good_step: int,
    learning_rate: float,
    clip_norm: float | None,
    ranks: Sequence[int] = (),
) -> NonFiniteError:
    """Return the error for a loss that is not finite.

    Parameters
    ----------
    step : int
        The step that had it, counted from 1.
    loss : float
        That loss.
    good_step : int
        The step that led to the parameters the model has now.
    learning_rate, clip_norm : float
        What might be lowered, or None.
    ranks : sequence of int
        The ranks whose captions have it, where several compute together.

    Returns
    -------
    NonFiniteError
        To be raised.
    """
    where = f" on rank {', '.join(map(str, ranks))}" if ranks else ""
    return NonFiniteError(
        f"the loss of step {step} is {loss}{where}: training has diverged (learning rate {learning_rate:g}, clip_norm "
        f"{clip_norm}). Train anew with a lower learning rate, or with clip_norm, say 5.0. model.params holds the "
        f"parameters after step {good_step}, the last ones known to be good."
    )


def copy_arrays(arrays: Mapping[str, Array]) -> dict[str, Array]:
    """Copy arrays where they live.

    Parameters
    ----------
    arrays : mapping of str to array
        Of one library.

    Returns
    -------
    dict of str to array
        The copies.
    """
    xp = array_namespace(*arrays.values())
    return {name: xp.asarray(array, copy=True) for name, array in arrays.items()}
