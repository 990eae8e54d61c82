"""Training in TensorBoard: callbacks of a solver that write its losses, rates and metrics."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from capgpu.optional_deps import require
from capgpu.validation import check_count

if TYPE_CHECKING:
    from capgpu.solver import CaptioningSolver

__all__ = ["TensorBoardLogger"]


class TensorBoardLogger:
    """Writer of TensorBoard's event files; needs the package tensorboardX (the extra ``tensorboard``).

    Losses are in nats per word, as ``train_loss`` and ``val_loss`` of the history.

    Parameters
    ----------
    folder : path
        The folder of the event files, created if it does not exist. Show it with ``tensorboard --logdir FOLDER``.
    every : int
        Steps from one written loss to the next. On a device each one waits for the loss.

    Raises
    ------
    MissingExtraError
        If tensorboardX is not installed.
    TypeError, ValueError
        For a count below 1.

    Examples
    --------
    >>> from capgpu.training.tensorboard import TensorBoardLogger
    >>> logger = TensorBoardLogger("runs/demo/tensorboard")  # doctest: +SKIP
    >>> solver = CaptioningSolver(model, data, callbacks=[logger.epoch], step_callbacks=[logger.step])  # doctest: +SKIP
    """

    def __init__(self, folder: str | os.PathLike[str], *, every: int = 10) -> None:
        check_count("every", every, 1)
        self._writer_class = require("tensorboardX", "tensorboard", "Writing for TensorBoard").SummaryWriter
        self.folder, self.every = os.fspath(folder), every
        self._writer: Any = None

    def _open(self, step: int) -> Any:
        if self._writer is None:
            # events of a run that was resumed here replace those that it had written behind its last state
            self._writer = self._writer_class(self.folder, purge_step=step)
        return self._writer

    def step(self, solver: CaptioningSolver, record: Mapping[str, Any]) -> None:
        """Write loss and learning rate of a step: a step callback.

        Parameters
        ----------
        solver : CaptioningSolver
            The solver.
        record : mapping
            What step callbacks are given.
        """
        if solver.ranks.rank > 0:
            return
        writer = self._open(record["step"])
        if record["step"] == 1 or record["step"] % self.every == 0:
            writer.add_scalar("loss/train", float(record["train_loss"]), record["step"])
            writer.add_scalar("learning_rate", record["learning_rate"], record["step"])

    def epoch(self, solver: CaptioningSolver, record: Mapping[str, Any]) -> None:
        """Write losses and metrics of an epoch, and flush the file: an epoch callback.

        Parameters
        ----------
        solver : CaptioningSolver
            The solver.
        record : mapping
            What epoch callbacks are given.
        """
        if solver.ranks.rank > 0:
            return
        writer = self._open(record["step"])
        values = {
            "loss/train_epoch": record["train_loss"],
            "loss/val": record.get("val_loss"),
            "reward": record.get("reward"),
        }
        metric = record.get("metric")
        values |= {f"metric/{k}": v for k, v in metric.items()} if isinstance(metric, Mapping) else {"metric": metric}
        for name, value in values.items():
            if value is not None:
                writer.add_scalar(name, float(value), record["step"])
        writer.flush()

    def close(self) -> None:
        """Close the file; a later call opens another one."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None
