"""Callbacks of training: their types, and early stopping."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from capgpu.errors import InvalidTypeError, InvalidValueError
from capgpu.validation import as_float, check_count, check_not_negative
from capgpu.visible_text import short

if TYPE_CHECKING:
    from capgpu.solver import CaptioningSolver

__all__ = [
    "EarlyStopping",
    "EpochCallback",
    "Metric",
    "StepCallback",
    "check_score_name",
    "checked_metric",
    "metric_score",
]

#: ``metric(model, data)`` after each epoch.
Metric: TypeAlias = Callable[[Any, Mapping[str, Any]], "float | Mapping[str, float]"]
#: ``callback(solver, record)`` after each epoch, with the epoch's line of history.
EpochCallback: TypeAlias = "Callable[[CaptioningSolver, Mapping[str, Any]], object]"
#: ``callback(solver, record)`` after each update: ``step``, ``epoch``, ``loss`` (per caption) and ``train_loss`` (per
#: word), which on a device are arrays that nothing has waited for, and ``learning_rate``.
StepCallback: TypeAlias = "Callable[[CaptioningSolver, Mapping[str, Any]], object]"


def checked_metric(value: Any) -> float | dict[str, float]:
    """Return what a metric returned, as floats.

    Parameters
    ----------
    value : float, array of one number, or mapping of str to these
        The value.

    Returns
    -------
    float or dict of str to float
        The same.

    Raises
    ------
    TypeError
        For anything else.
    """
    if isinstance(value, Mapping) and value:
        return {str(name): _number(entry) for name, entry in value.items()}
    return _number(value)


def _number(value: Any) -> float:
    try:
        # float() would read a text, which is no number
        if not isinstance(value, (str, bytes, bytearray)):
            return as_float(value)
    except (TypeError, ValueError):
        pass
    raise InvalidTypeError(
        f"metric: expected a function that returns a number or a dict of numbers, got {short(value)}."
    )


class EarlyStopping:
    """Epoch callback that stops training when a score has not improved for some epochs.

    What it decides follows from the solver's histories alone, which are part of a checkpoint: a resumed run stops where
    a run that never stopped does.

    Parameters
    ----------
    patience : int
        Epochs without improvement after which training stops.
    min_delta : float
        Least improvement that counts.
    monitor : str
        ``"val_loss"``; ``"metric"`` for the solver's metric, or the name of one of the metrics that it returns.
    mode : {"min", "max"}, optional
        Whether lower or higher is better; by default lower for ``"val_loss"`` and higher for a metric.

    Raises
    ------
    TypeError, ValueError
        For settings out of range; as the solver is created, for a score that it does not compute.

    Examples
    --------
    >>> from capgpu.training.callbacks import EarlyStopping
    >>> early_stopping = EarlyStopping(patience=3)  # CaptioningSolver(..., callbacks=[early_stopping], keep_best=True)
    >>> early_stopping.epochs_since_best([3.0, 2.0, 2.5, 2.1])
    2
    """

    def __init__(
        self,
        patience: int,
        *,
        min_delta: float = 0.0,
        monitor: str = "val_loss",
        mode: Literal["min", "max"] | None = None,
    ) -> None:
        check_count("patience", patience, 1)
        check_not_negative("min_delta", min_delta)
        if not isinstance(monitor, str):
            raise InvalidTypeError(f"monitor: expected the name of a score, got {short(monitor)}.")
        if mode not in (None, "min", "max"):
            raise InvalidValueError(f"mode: expected 'min' or 'max', got {short(mode)}.")
        self.patience, self.min_delta, self.monitor = patience, float(min_delta), monitor
        self.mode = ("min" if monitor == "val_loss" else "max") if mode is None else mode

    def check(self, solver: Any) -> None:
        """Check that a solver computes the score.

        Parameters
        ----------
        solver : CaptioningSolver
            The solver.

        Raises
        ------
        ValueError
            If it does not.
        """
        if self.monitor == "val_loss" and not solver.validate:
            raise InvalidValueError(
                "EarlyStopping: expected a solver that validates, got another. Pass validate=True and a val split."
            )
        if self.monitor != "val_loss" and solver.metric is None:
            raise InvalidValueError(f"EarlyStopping: expected a solver with a metric for {self.monitor!r}, got none.")
        if self.monitor != "val_loss":
            check_score_name("monitor", self.monitor, solver.metric)

    def epochs_since_best(self, scores: list[float | None]) -> int:
        """Return how many epochs ago the best score was reached.

        Parameters
        ----------
        scores : list of float or None
            The score of each epoch; None and NaN are no improvement.

        Returns
        -------
        int
            0 if the last epoch is the best; all epochs where none has a finite score.
        """
        sign = 1.0 if self.mode == "min" else -1.0
        best, best_epoch = math.inf, -1
        for epoch, score in enumerate(scores):
            value = math.nan if score is None else sign * score
            # the first finite score is better than none; NaN compares as False
            if value < best - (self.min_delta if best < math.inf else 0.0):
                best, best_epoch = value, epoch
        return len(scores) - 1 - best_epoch

    def __call__(self, solver: CaptioningSolver, record: Mapping[str, Any]) -> None:
        """Stop training if the score has not improved for `patience` epochs."""
        if self.is_due(solver):
            solver.stop()

    def is_due(self, solver: Any) -> bool:
        """Return whether the score has not improved for `patience` epochs.

        Parameters
        ----------
        solver : CaptioningSolver
            The solver.

        Returns
        -------
        bool
            Whether training stops.

        Raises
        ------
        ValueError
            If the solver's metric returns no score of the monitored name.
        """
        return self.epochs_since_best(self._scores(solver)) >= self.patience

    def _scores(self, solver: CaptioningSolver) -> list[float | None]:
        if self.monitor == "val_loss":
            return list(solver.val_loss_history)
        return [metric_score(entry, self.monitor) for entry in solver.metric_history]


def check_score_name(argument: str, name: str, metric: Any) -> None:
    """Check that a metric returns a score, where it lists them in ``names``, as CaptionMetric does.

    Parameters
    ----------
    argument : str
        The argument that names the score.
    name : str
        The score.
    metric : callable
        The metric. The scores of one without ``names`` are known once it returns.

    Raises
    ------
    ValueError
        For another name.
    """
    names = getattr(metric, "names", None)
    if names is not None and name not in names:
        raise InvalidValueError(f"{argument}: expected one of {', '.join(names)}, got {short(name)}.")


def metric_score(value: Any, name: str) -> float | None:
    """Return a score of what a metric returned: the entry of a name, or the number that it is.

    Parameters
    ----------
    value : float, dict of str to float, or None
        An entry of ``metric_history``.
    name : str
        The name.

    Returns
    -------
    float or None
        None if it was not finite.

    Raises
    ------
    ValueError
        If there are scores, but none of that name.
    """
    score: float | None = value
    if not isinstance(value, Mapping):
        return score
    if name not in value:
        raise InvalidValueError(
            f"metric: expected a function that returns the score {short(name)}, got one that returns "
            f"{', '.join(value)}."
        )
    score = value[name]
    return score
